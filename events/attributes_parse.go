package events

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ParseAttributes reads what [AppendAttributes] wrote and returns the event with
// data as its payload. It fails, wrapping [ErrInvalid], on anything else.
func ParseAttributes(attributes, data []byte) (Event, error) {
	if len(attributes) == 0 || attributes[0]&formMask != attributesFormat {
		return Event{}, fmt.Errorf("%w: the format of its attributes is unknown", ErrInvalid)
	}
	var (
		u     = unpacker{rest: attributes[1:]}
		spans [attributesMax]struct {
			attribute byte
			name      span
			value     span
		}
		e Event
	)
	u.all.Grow(2 * len(attributes)) // as a rule it is enough
	n := int(attributes[0] &^ formMask)
	for i := range spans[:n] {
		s := &spans[i]
		key := u.byte()
		if s.attribute = key &^ formMask; s.attribute == attrNamed {
			s.name = u.text()
		}
		switch key & formMask {
		case formText:
			s.value = u.text()
		case formUUID:
			if id := u.take(16); id != nil {
				var text [36]byte
				s.value = u.bytes(AppendUUID(text[:0], uuid.UUID(id)))
			}
		case formSame:
			if place := int(u.byte()); place < i { // a time has no text, which is refused below
				s.value = spans[place].value
			} else {
				u.cut = true
			}
		case formKnown:
			if place := int(u.byte()); place < len(knownValues) {
				s.value = u.bytes([]byte(knownValues[place]))
			} else {
				u.cut = true
			}
		case formTime:
			e.Time = u.time(s.attribute, e.Time)
			continue
		case formTrace:
			s.value = u.trace()
		default:
			u.cut = true
		}
		if s.attribute == attrTime || s.value.to == s.value.from {
			u.cut = true
		}
	}
	if u.cut || len(u.rest) > 0 {
		return Event{}, fmt.Errorf("%w: attributes are cut short, or hold what they cannot", ErrInvalid)
	}
	text := u.all.String() // one copy that every attribute is a part of
	for i := range spans[:n] {
		s := &spans[i]
		if s.attribute == attrTime {
			continue
		}
		if err := e.store(s.attribute, text[s.name.from:s.name.to], text[s.value.from:s.value.to]); err != nil {
			return Event{}, err
		}
	}
	if len(data) > 0 {
		e.Data = data
	}
	if err := e.Validate(); err != nil {
		return Event{}, err
	}
	return e, nil
}

// store sets an attribute by its number, or by its name when that is attrNamed.
func (e *Event) store(attribute byte, name, value string) error {
	var field *string
	switch i := int(attribute); {
	case attribute == attrNamed:
	case i < len(commonAttributes):
		field = e.field(commonAttributes[i])
	case i < len(commonAttributes)+len(knownExtensions):
		name = knownExtensions[i-len(commonAttributes)]
	default:
		return fmt.Errorf("%w: attribute %d is unknown", ErrInvalid, attribute)
	}
	if field != nil {
		if *field != "" {
			return fmt.Errorf("%w: attribute %d comes twice", ErrInvalid, attribute)
		}
		*field = value
		return nil
	}
	if _, twice := e.Extensions[name]; twice {
		return fmt.Errorf("%w: attribute %q comes twice", ErrInvalid, name)
	}
	if e.Extensions == nil {
		e.Extensions = make(map[string]string)
	}
	e.Extensions[name] = value
	return nil
}

// span is a part of what an unpacker has unpacked.
type span struct{ from, to int }

// unpacker reads attributes. Once it is cut, all that it reads is empty.
type unpacker struct {
	rest []byte
	all  strings.Builder // the text of all names and values
	cut  bool
}

func (u *unpacker) take(n uint64) []byte {
	if u.cut || n > uint64(len(u.rest)) {
		u.cut, u.rest = true, nil
		return nil
	}
	taken := u.rest[:n]
	u.rest = u.rest[n:]
	return taken
}

func (u *unpacker) byte() byte {
	if b := u.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (u *unpacker) uvarint() uint64 {
	v, n := binary.Uvarint(u.rest)
	if n <= 0 {
		u.cut, u.rest = true, nil
		return 0
	}
	u.rest = u.rest[n:]
	return v
}

func (u *unpacker) bytes(b []byte) span {
	start := u.all.Len()
	u.all.Write(b)
	return span{start, u.all.Len()}
}

func (u *unpacker) text() span { return u.bytes(u.take(u.uvarint())) }

// time reads the time of an event that has none yet. Validate refuses years that
// RFC 3339 does not have, if the number is one that a time can hold.
func (u *unpacker) time(attribute byte, before time.Time) time.Time {
	raw, nanos := u.uvarint(), u.uvarint()
	seconds := int64(raw>>1) ^ -int64(raw&1) // as binary.Varint
	at := time.Unix(seconds, int64(nanos%1e9)).UTC()
	if attribute != attrTime || !before.IsZero() || nanos >= 1e9 || seconds>>40 > 0 || seconds>>40 < -1 || at.IsZero() {
		u.cut = true
	}
	return at
}

func (u *unpacker) trace() (s span) {
	if b := u.take(25); b != nil {
		var text [55]byte
		all := hex.AppendEncode(append(text[:0], "00-"...), b[:16])
		all = hex.AppendEncode(append(all, '-'), b[16:24])
		s = u.bytes(hex.AppendEncode(append(all, '-'), b[24:]))
	}
	return s
}
