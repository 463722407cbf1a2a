package events

import (
	"crypto/sha256"
	"encoding/binary"

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
