package saga

import (
	"bytes"

	"github.com/google/uuid"

	"github.com/countermand/countermand/events"
)

// Texts and JSON in an entry are full of ids, above all of the saga's own: in its
// state, in each request and in most replies. So an entry holds them packed: one byte
// for the saga's id, 17 for any other UUID. UTF-8 has no use for the two bytes that
// say so; an entry in which they occur nevertheless is written in the plain format.
const (
	packedUUID = 0xfe // 16 bytes follow
	packedSelf = 0xff
)

// packable reports that nothing in value would be taken for an id.
func packable(value []byte) bool {
	return bytes.IndexByte(value, packedUUID) < 0 && bytes.IndexByte(value, packedSelf) < 0
}

// appendPacked appends a packable value; self is the id of the saga, the nil UUID
// where it is not known.
func appendPacked(dst, value []byte, self uuid.UUID) []byte {
	const before, length = 8, 36 // a UUID has its first dash at 8
	done := 0
	for at := 0; ; {
		dash := bytes.IndexByte(value[at:], '-')
		if dash < 0 {
			return append(dst, value[done:]...)
		}
		start := at + dash - before
		at += dash + 1
		if start < done || start+length > len(value) {
			continue
		}
		id, ok := events.UUIDOf(value[start : start+length])
		if !ok {
			continue
		}
		dst = append(dst, value[done:start]...)
		if id == self && self != uuid.Nil {
			dst = append(dst, packedSelf)
		} else {
			dst = append(append(dst, packedUUID), id[:]...)
		}
		done = start + length
		at = done
	}
}

// unpack returns what was packed, which is the value itself when no id is in it; false
// when it cannot be unpacked.
func unpack(value []byte, self string) ([]byte, bool) {
	if packable(value) {
		return value, true
	}
	out := make([]byte, 0, len(value)+36*bytes.Count(value, []byte{packedSelf})+20*bytes.Count(value, []byte{packedUUID}))
	for i := 0; i < len(value); i++ {
		switch c := value[i]; c {
		case packedSelf:
			if self == "" {
				return nil, false
			}
			out = append(out, self...)
		case packedUUID:
			if len(value)-i <= 16 {
				return nil, false
			}
			out = events.AppendUUID(out, uuid.UUID(value[i+1:i+17]))
			i += 16
		default:
			out = append(out, c)
		}
	}
	return out, true
}
