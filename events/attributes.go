package events

import (
	"encoding/binary"
	"maps"
	"slices"
)

// Tables store an event's attributes in a form of their own. The first byte counts
// them and tells the format; each attribute is then
//
//	key: number of the attribute and form of the value; name, where that has no number; value
//
// Most of what an event of a saga says is ids, most of them the same: a UUID takes 16
// bytes, and a value that came before one.
const (
	attributesFormat = 1 << 5
	attributesMax    = 1<<5 - 1 // 14 and the extensions
)

// Numbers of attributes, which must not change: their places in commonAttributes.
const (
	attrNamed = iota // the name follows
	attrID
	attrSource
	attrType
	attrSubject
	attrTime
	attrDataSchema
	attrDataContentType
	attrExtension // and as many more as extensionNames and, after them, knownExtensions have
)

// knownExtensions have a number as well. What is added comes last.
var knownExtensions = [...]string{TenantExtension, ClientExtension, UndoesTime, ExpiryExtension}

// knownValues are written as their place. What is added comes last.
var knownValues = [...]string{ContentTypeJSON, string(Replies)}

// Forms of a value.
const (
	formText  = iota << 5 // length and bytes
	formUUID              // 16 bytes
	formSame              // the place of an attribute before it that has the same value
	formKnown             // the place in knownValues
	formTime              // seconds since 1970, nanoseconds
	formTrace             // the 25 bytes of a traceparent of version 00
	formMask  = 7 << 5
)

// AppendAttributes appends all attributes of e, but not its data, to dst in a
// compact binary form. The outbox stores an event this way, so the relay need not
// parse JSON. Extensions of no value are left out.
func AppendAttributes(dst []byte, e *Event) []byte {
	head := len(dst)
	p := packer{dst: append(dst, 0)}
	p.put(attrID, "", e.ID)
	p.put(attrSource, "", e.Source)
	p.put(attrType, "", e.Type)
	p.put(attrSubject, "", e.Subject)
	if !e.Time.IsZero() {
		p.key(attrTime|formTime, "", "")
		p.dst = binary.AppendVarint(p.dst, e.Time.Unix())
		p.dst = binary.AppendUvarint(p.dst, uint64(e.Time.Nanosecond()))
	}
	p.put(attrDataSchema, "", e.DataSchema)
	p.put(attrDataContentType, "", e.DataContentType)
	for i, value := range [...]string{
		e.CorrelationID, e.CausationID, e.PartitionKey, e.TraceParent, e.TraceState, e.ReplyTo, e.Undoes,
	} { // as extensionNames has them
		p.put(attrExtension+byte(i), "", value)
	}
	switch len(e.Extensions) {
	case 0:
	case 1:
		for name, value := range e.Extensions {
			p.extension(name, value)
		}
	default:
		for _, name := range slices.Sorted(maps.Keys(e.Extensions)) {
			p.extension(name, e.Extensions[name])
		}
	}
	p.dst[head] = attributesFormat | byte(min(p.n, attributesMax))
	return p.dst
}

// packer appends attributes.
type packer struct {
	dst    []byte
	values [attributesMax]string
	n      int // an event of more than attributesMax is not valid, nor is what is written of it
}

func (p *packer) extension(name, value string) {
	for i, known := range knownExtensions {
		if name == known {
			p.put(attrExtension+byte(len(extensionNames)+i), "", value)
			return
		}
	}
	p.put(attrNamed, name, value)
}

// key begins an attribute.
func (p *packer) key(key byte, name, value string) {
	p.dst = append(p.dst, key)
	if key&^formMask == attrNamed {
		p.text(name)
	}
	if p.n < len(p.values) {
		p.values[p.n] = value
	}
	p.n++
}

func (p *packer) text(s string) {
	p.dst = binary.AppendUvarint(p.dst, uint64(len(s)))
	p.dst = append(p.dst, s...)
}

func (p *packer) put(attribute byte, name, value string) {
	if value == "" {
		return
	}
	for i, known := range p.values[:min(p.n, len(p.values))] {
		if value == known {
			p.key(attribute|formSame, name, value)
			p.dst = append(p.dst, byte(i))
			return
		}
	}
	for i, known := range knownValues {
		if value == known {
			p.key(attribute|formKnown, name, value)
			p.dst = append(p.dst, byte(i))
			return
		}
	}
	if id, ok := UUIDOf(value); ok {
		p.key(attribute|formUUID, name, value)
		p.dst = append(p.dst, id[:]...)
		return
	}
	if trace, ok := traceBytes(value); ok {
		p.key(attribute|formTrace, name, value)
		p.dst = append(p.dst, trace[:]...)
		return
	}
	p.key(attribute|formText, name, value)
	p.text(value)
}

// traceBytes returns the bytes of a traceparent of version 00; false for any other
// text.
func traceBytes(s string) (trace [25]byte, ok bool) {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return trace, false
	}
	ok = unhexLower(trace[:16], s[3:35]) && unhexLower(trace[16:24], s[36:52]) && unhexLower(trace[24:], s[53:])
	return trace, ok
}
