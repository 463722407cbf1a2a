package events

// Attributes are short ASCII, so eight bytes at a time are seen to be nothing else before
// one is looked at: every hop goes through them twice.
const (
	ones = 0x0101010101010101
	high = 0x8080808080808080
)

// word returns eight bytes of s, whose length is eight at least.
func word(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// printable reports that all bytes of w lie between least and the tilde; least is below
// 0x80.
func printable(w, least uint64) bool {
	return (w|(w+ones)|(w-least*ones)&^w)&high == 0
}

// has reports that a byte of w is c.
func has(w, c uint64) bool {
	w ^= c * ones
	return (w-ones)&^w&high != 0
}

// printablePrefix returns how many bytes at the beginning of s are known to be printable
// ASCII.
func printablePrefix(s string) (n int) {
	for len(s)-n >= 8 && printable(word(s[n:n+8]), ' ') {
		n += 8
	}
	return n
}

// plainPrefix returns how many bytes at the beginning of s are known to need no encoding.
func plainPrefix(s string) (n int) {
	for len(s)-n >= 8 {
		w := word(s[n : n+8])
		if !printable(w, ' '+1) || has(w, '"') || has(w, '%') {
			break
		}
		n += 8
	}
	return n
}
