// Package body looks at a request in JSON without decoding it, and changes single
// fields of it. Everything else keeps its bytes: fields that nobody here has heard
// of, the form of numbers, the order.
package body

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// Limits of every document.
const (
	depthMax  = 128
	fieldsMax = 512
)

// Object is a JSON object. It is not safe for concurrent use.
type Object struct {
	data   []byte
	fields []field
	edited bool
}

type field struct {
	name    string // as it means, without escapes
	key     string // as it is written, with quotes
	value   gjson.Result
	deleted bool
}

// Parse reads an object. It refuses what two parsers could read differently: names
// that come twice, whatever their case, since some providers take the last one and
// some ignore case. What it does not look at is the inside of values.
func Parse(data []byte) (*Object, error) {
	if err := Check(data); err != nil {
		return nil, err
	}
	root := gjson.ParseBytes(data)
	if !root.IsObject() {
		return nil, errors.New("the body must be a JSON object")
	}
	o := &Object{data: data, fields: make([]field, 0, 8)}
	var twice string
	root.ForEach(func(key, value gjson.Result) bool {
		for i := range o.fields {
			if strings.EqualFold(o.fields[i].name, key.Str) {
				twice = key.Str
				return false
			}
		}
		o.fields = append(o.fields, field{name: key.Str, key: key.Raw, value: value})
		return len(o.fields) <= fieldsMax
	})
	switch {
	case twice != "":
		return nil, fmt.Errorf("the field %q comes twice", twice)
	case len(o.fields) > fieldsMax:
		return nil, fmt.Errorf("the body has more than %d fields", fieldsMax)
	}
	return o, nil
}

// Check reports whether data is one JSON value that is not nested too deep.
func Check(data []byte) error {
	depth, inside := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inside:
			switch c {
			case '\\':
				i++
			case '"':
				inside = false
			}
		case c == '"':
			inside = true
		case c == '{' || c == '[':
			if depth++; depth > depthMax {
				return fmt.Errorf("the body is nested more than %d deep", depthMax)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	if !gjson.ValidBytes(data) {
		return errors.New("the body is not valid JSON")
	}
	return nil
}

// Get returns the value of a field; one that does not exist when there is none.
func (o *Object) Get(name string) gjson.Result {
	if f := o.find(name); f != nil {
		return f.value
	}
	return gjson.Result{}
}

// Each calls visit with every field until it returns false.
func (o *Object) Each(visit func(name string, value gjson.Result) bool) {
	for i := range o.fields {
		if !o.fields[i].deleted && !visit(o.fields[i].name, o.fields[i].value) {
			return
		}
	}
}

// Set gives a field a value, which must be JSON.
func (o *Object) Set(name, raw string) {
	o.edited = true
	if f := o.find(name); f != nil {
		f.value = gjson.Parse(raw)
		return
	}
	o.fields = append(o.fields, field{name: name, key: Quote(name), value: gjson.Parse(raw)})
}

// SetText gives a field a text.
func (o *Object) SetText(name, text string) { o.Set(name, Quote(text)) }

// Delete takes a field away.
func (o *Object) Delete(name string) {
	if f := o.find(name); f != nil {
		o.edited, f.deleted = true, true
	}
}

// Clone returns a copy that can be changed by itself.
func (o *Object) Clone() *Object {
	c := *o
	c.fields = append(make([]field, 0, len(o.fields)+2), o.fields...)
	return &c
}

// Bytes returns the document. It is that which was parsed when nothing changed.
func (o *Object) Bytes() []byte {
	if !o.edited {
		return o.data
	}
	var b bytes.Buffer
	b.Grow(len(o.data) + 64)
	b.WriteByte('{')
	first := true
	for i := range o.fields {
		f := &o.fields[i]
		if f.deleted {
			continue
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		b.WriteString(f.key)
		b.WriteByte(':')
		b.WriteString(f.value.Raw)
	}
	b.WriteByte('}')
	return b.Bytes()
}

func (o *Object) find(name string) *field {
	for i := range o.fields {
		if f := &o.fields[i]; f.name == name && !f.deleted {
			return f
		}
	}
	return nil
}

// Quote writes a text as JSON.
func Quote(text string) string { return string(gjson.AppendJSONString(nil, text)) }

// Visit calls visit with every element of a list or member of an object until it
// returns false. Of anything else, such as a null, it finds none.
func Visit(value gjson.Result, visit func(key, value gjson.Result) bool) {
	if value.IsArray() || value.IsObject() {
		value.ForEach(visit)
	}
}
