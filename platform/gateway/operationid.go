package gateway

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"sync"
	"time"
)

// operationID is the id of an operation: a UUIDv8 (RFC 9562 §5.8) whose last 24
// bits are a truncated HMAC of the rest, so that the gateway knows its own ids
// from invented ones without a lookup.
//
//	bits    0..47   unkeyed: milliseconds since 1970, so that ids sort by age
//	bits   48..51   version 8
//	bits   64..65   variant
//	bit    66       1 when the id derives from an Idempotency-Key
//	bits  104..127  tag
//
// What is left, 49 bits, is random. A keyed id fills the 97 bits outside of
// version, variant, mark and tag from an HMAC of what it derives from, so every
// replica with the secret derives the same one.
//
// The tenant that an id was made for is part of what is authenticated, so that
// another tenant's operation is not found without asking anybody. The tag is no
// protection against guessing: one guess in 16 million passes it, and learns that
// an operation which does not exist is "accepted".
type operationID [16]byte

const (
	idTagAt     = 13   // first byte of the tag
	idMarkAt    = 8    // byte of variant and keyed mark
	idKeyedMark = 0x20 // within that byte
	idTextBytes = 36
)

func (id operationID) keyed() bool { return id[idMarkAt]&idKeyedMark != 0 }

// mintedAt returns when an unkeyed id was made, and the zero time for a keyed one.
func (id operationID) mintedAt() time.Time {
	if id.keyed() {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC()
}

func (id operationID) String() string {
	var text [idTextBytes]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// parseOperationID reads a UUID of any version in its one canonical form:
// lower-case with hyphens. Anything else is no operation's id.
func parseOperationID(text string) (id operationID, ok bool) {
	if len(text) != idTextBytes || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, false
	}
	for i, at := range idDigitsAt {
		high, low := unhex(text[at]), unhex(text[at+1])
		if high > 15 || low > 15 {
			return operationID{}, false
		}
		id[i] = high<<4 | low
	}
	return id, true
}

// idDigitsAt is where in the text the two digits of each byte stand.
var idDigitsAt = [16]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// unhex returns the value of a lower-case hexadecimal digit, and 255 for any
// other byte.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// Uses of the secret, kept apart by the first byte of what is authenticated.
const (
	macOfTag byte = iota + 1
	macOfKey
	macOfTenantTag
	macOfBusinessKey
	macOfEvent
)

// mint makes and recognises operation ids. It is safe for concurrent use.
type mint struct {
	macs sync.Pool // of hash.Hash: HMAC-SHA256 with the secret
}

func newMint(secret []byte) *mint {
	key := append([]byte(nil), secret...)
	return &mint{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// fresh returns an id of the tenant's that nobody had before.
func (m *mint) fresh(tenant string, now time.Time) operationID {
	var id operationID
	_, _ = rand.Read(id[6:idTagAt]) // never fails (crypto/rand)
	ms := uint64(now.UnixMilli())
	id[0], id[1], id[2], id[3] = byte(ms>>40), byte(ms>>32), byte(ms>>24), byte(ms>>16)
	id[4], id[5] = byte(ms>>8), byte(ms)
	return m.seal(id, tenant, false)
}

// derived returns the id of the tenant's that belongs to those parts; use keeps
// kinds of keys apart.
func (m *mint) derived(tenant string, use byte, parts ...string) operationID {
	sum := m.mac(func(mac hash.Hash) {
		_, _ = mac.Write([]byte{use})
		var length [4]byte
		for _, part := range parts { // with their lengths, so that ("ab","c") and ("a","bc") differ
			binary.BigEndian.PutUint32(length[:], uint32(len(part)))
			_, _ = mac.Write(length[:])
			_, _ = mac.Write([]byte(part))
		}
	})
	return m.seal(operationID(sum[:16]), tenant, true)
}

// authentic reports whether this mint, or one with its secret, made the id for the
// tenant.
func (m *mint) authentic(id operationID, tenant string) bool {
	sealed := m.seal(id, tenant, id.keyed())
	return hmac.Equal(sealed[:], id[:])
}

// seal sets version, variant, mark and tag.
func (m *mint) seal(id operationID, tenant string, keyed bool) operationID {
	id[6] = id[6]&0x0f | 0x80
	id[idMarkAt] = id[idMarkAt]&0x1f | 0x80
	if keyed {
		id[idMarkAt] |= idKeyedMark
	}
	tag := m.mac(func(mac hash.Hash) {
		if tenant == "" {
			_, _ = mac.Write([]byte{macOfTag})
		} else { // so that nobody else's request knows the id
			_, _ = mac.Write([]byte{macOfTenantTag})
			_, _ = mac.Write([]byte(tenant))
			_, _ = mac.Write([]byte{0})
		}
		_, _ = mac.Write(id[:idTagAt])
	})
	copy(id[idTagAt:], tag[:])
	return id
}

func (m *mint) mac(write func(hash.Hash)) (sum [sha256.Size]byte) {
	mac := m.macs.Get().(hash.Hash)
	defer m.macs.Put(mac)
	mac.Reset()
	write(mac)
	mac.Sum(sum[:0])
	return sum
}
