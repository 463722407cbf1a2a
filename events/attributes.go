package events

import (
	"encoding/binary"
	"fmt"
)

// AppendAttributes appends all attributes of e, but not its data, to dst in a
// compact binary form: pairs of length-prefixed names and values. The outbox
// stores an event this way, so the relay need not parse JSON.
func AppendAttributes(dst []byte, e *Event) []byte {
	put := func(s string) {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	Kafka.Encode(e, func(name, value string) { put(name); put(value) })
	return dst
}

// ParseAttributes reads what [AppendAttributes] wrote and returns the event with
// data as its payload. It fails, wrapping [ErrInvalid], on anything else.
func ParseAttributes(attributes, data []byte) (Event, error) {
	rest := string(attributes) // one copy that every attribute is a part of
	next := func() (string, bool) {
		n, width := uvarint(rest)
		if width <= 0 || n > uint64(len(rest)-width) {
			return "", false
		}
		s := rest[width : width+int(n)]
		rest = rest[width+int(n):]
		return s, true
	}
	decoder := Kafka.Decoder()
	for len(rest) > 0 {
		name, ok := next()
		value, ok2 := next()
		if !ok || !ok2 {
			return Event{}, fmt.Errorf("%w: attributes are cut short", ErrInvalid)
		}
		decoder.Header(name, value)
	}
	return decoder.Event(data)
}

// uvarint is binary.Uvarint on a string.
func uvarint(s string) (uint64, int) {
	var head [binary.MaxVarintLen64]byte
	return binary.Uvarint(head[:copy(head[:], s)])
}
