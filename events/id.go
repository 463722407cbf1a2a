package events

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/google/uuid"
)

// NewID returns a fresh id: a UUIDv7, so ids sort by the time they were made.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// DeriveID returns the id that belongs to those parts, as [DeriveUUID] does, in
// its canonical text form.
func DeriveID(parts ...string) string { return DeriveUUID(parts...).String() }

// DeriveUUID returns the id that belongs to those parts: a UUIDv8 (RFC 9562
// §5.8) of their SHA-256. The same parts always give the same id, which is how a
// command that is issued again, or a reply that is sent again, stays one event.
func DeriveUUID(parts ...string) uuid.UUID {
	var stack [256]byte // most parts are ids and short names
	input := stack[:0]
	for _, part := range parts {
		// The length before each part makes ("ab","c") and ("a","bc") differ.
		input = binary.AppendUvarint(input, uint64(len(part)))
		input = append(input, part...)
	}
	sum := sha256.Sum256(input)
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// UUIDOf returns the UUID whose canonical text that is, of which [AppendUUID] makes the
// very same text again; false when it is any other text. It does not allocate.
func UUIDOf[T ~string | ~[]byte](text T) (id uuid.UUID, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, false
	}
	ok = unhexLower(id[:4], text[:8]) && unhexLower(id[4:6], text[9:13]) && unhexLower(id[6:8], text[14:18]) &&
		unhexLower(id[8:10], text[19:23]) && unhexLower(id[10:], text[24:])
	return id, ok
}

// AppendUUID appends the canonical text of a UUID.
func AppendUUID(dst []byte, id uuid.UUID) []byte {
	dst = append(hex.AppendEncode(dst, id[:4]), '-')
	dst = append(hex.AppendEncode(dst, id[4:6]), '-')
	dst = append(hex.AppendEncode(dst, id[6:8]), '-')
	dst = append(hex.AppendEncode(dst, id[8:10]), '-')
	return hex.AppendEncode(dst, id[10:])
}

// unhexLower decodes the digits, two for each byte of dst; false when one of them is
// none or is upper case.
func unhexLower[T ~string | ~[]byte](dst []byte, digits T) bool {
	for i := range dst {
		high, low := lowerHex[digits[2*i]], lowerHex[digits[2*i+1]]
		if high|low > 0x0f {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

// lowerHex is the value of each hexadecimal digit, 0xff for what is none.
var lowerHex = func() (table [256]byte) {
	for i := range table {
		table[i] = 0xff
	}
	for i, digit := range []byte("0123456789abcdef") {
		table[digit] = byte(i)
	}
	return table
}()
