package broker

// Partition returns the partition of a key among n, by the hash that Kafka's
// Java client uses (murmur2, seed 0x9747b28c, sign bit cleared), so the same key
// has the same partition number on both brokers.
func Partition(key string, n int) int {
	return int(murmur2(key)&0x7fffffff) % n
}

// murmur2 is Kafka's variant of MurmurHash2 by Austin Appleby.
func murmur2(key string) uint32 {
	const m = 0x5bd1e995
	length := len(key)
	h := uint32(0x9747b28c) ^ uint32(length)
	for len(key) >= 4 {
		k := uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
		key = key[4:]
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
