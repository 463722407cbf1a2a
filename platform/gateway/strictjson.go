package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// integerMax is the largest whole number that every JSON implementation reads
// exactly.
const integerMax = 1 << 53

// jsonError is why a document is not acceptable JSON.
type jsonError struct {
	pointer string
	offset  int64 // bytes read before the fault was seen; -1 when of no use
	detail  string
}

// Error makes a jsonError an error.
func (f *jsonError) Error() string {
	if f.offset < 0 {
		return f.detail
	}
	return fmt.Sprintf("%s (at byte %d)", f.detail, f.offset)
}

// problem returns the fault as a problem document.
func (f *jsonError) problem() *Problem {
	p := newProblem(codeMalformedJSON, "Nothing was started: "+f.Error()+".")
	p.Errors = []Violation{{Pointer: f.pointer, Detail: f.detail}}
	return p
}

// strictDecoder reads one I-JSON document (RFC 7493) within the limits of this
// package. What it refuses is what two honest parsers may read differently:
// a name that comes twice, invalid UTF-8, a whole number beyond 2^53, text after
// the document; and what cannot be stored: U+0000 in a string.
type strictDecoder struct {
	source bytes.Buffer
	tokens *jsontext.Decoder
}

var strictDecoders = sync.Pool{New: func() any {
	d := new(strictDecoder)
	d.tokens = jsontext.NewDecoder(&d.source)
	return d
}}

// decodeStrict returns the document as nil, bool, string, int64, float64,
// []any and map[string]any. A number is an int64 exactly when it is written
// without fraction and exponent. It keeps no reference to data.
func decodeStrict(data []byte) (any, *jsonError) {
	d := strictDecoders.Get().(*strictDecoder)
	defer func() {
		d.source = bytes.Buffer{}
		d.tokens.Reset(&d.source)
		strictDecoders.Put(d)
	}()
	d.source = *bytes.NewBuffer(data)
	d.tokens.Reset(&d.source)
	value, fault := d.value(0)
	if fault != nil {
		return nil, fault
	}
	switch _, err := d.tokens.ReadToken(); {
	case err == nil:
		return nil, &jsonError{offset: d.tokens.InputOffset() - 1, detail: "there is more after the JSON document"}
	case !errors.Is(err, io.EOF):
		fault := d.syntax(err)
		fault.detail = "there is more after the JSON document"
		return nil, fault
	}
	return value, nil
}

func (d *strictDecoder) value(depth int) (any, *jsonError) {
	token, err := d.tokens.ReadToken()
	if err != nil {
		return nil, d.syntax(err)
	}
	switch token.Kind() {
	case jsontext.KindNull:
		return nil, nil
	case jsontext.KindTrue:
		return true, nil
	case jsontext.KindFalse:
		return false, nil
	case jsontext.KindString:
		return d.text(token)
	case jsontext.KindNumber:
		return d.number(token)
	default: // an array or an object begins: the tokenizer lets no other kind stand here
	}
	if depth == jsonDepthMax {
		return nil, d.fault("the document is nested deeper than %d levels", jsonDepthMax)
	}
	if token.Kind() == jsontext.KindBeginArray {
		return d.array(depth + 1)
	}
	return d.object(depth + 1)
}

func (d *strictDecoder) array(depth int) (any, *jsonError) {
	items := []any{}
	for d.tokens.PeekKind() != jsontext.KindEndArray {
		item, fault := d.value(depth)
		if fault != nil {
			return nil, fault
		}
		items = append(items, item)
	}
	return items, d.end()
}

func (d *strictDecoder) object(depth int) (any, *jsonError) {
	fields := make(map[string]any)
	for d.tokens.PeekKind() != jsontext.KindEndObject {
		token, err := d.tokens.ReadToken()
		if err != nil {
			return nil, d.syntax(err)
		}
		name, fault := d.text(token)
		if fault != nil {
			return nil, fault
		}
		if fields[name], fault = d.value(depth); fault != nil {
			return nil, fault
		}
	}
	return fields, d.end()
}

// end reads the delimiter that was peeked at.
func (d *strictDecoder) end() *jsonError {
	if _, err := d.tokens.ReadToken(); err != nil {
		return d.syntax(err)
	}
	return nil
}

func (d *strictDecoder) text(token jsontext.Token) (string, *jsonError) {
	text := token.String()
	if strings.IndexByte(text, 0) >= 0 {
		return "", d.fault("the character U+0000 is not accepted")
	}
	return text, nil
}

func (d *strictDecoder) number(token jsontext.Token) (any, *jsonError) {
	written := token.String()
	if strings.ContainsAny(written, ".eE") {
		number, err := strconv.ParseFloat(written, 64)
		if err != nil || math.Abs(number) > integerMax {
			return nil, d.fault("the number is beyond 2^53, where readers round it; send it as a string")
		}
		return number, nil
	}
	number, err := strconv.ParseInt(written, 10, 64)
	if err != nil || number > integerMax || number < -integerMax {
		return nil, d.fault("the number is beyond 2^53, where readers round it; send it as a string")
	}
	return number, nil
}

// fault is about the token that was just read.
func (d *strictDecoder) fault(format string, args ...any) *jsonError {
	return &jsonError{
		pointer: string(d.tokens.StackPointer()), offset: d.tokens.InputOffset(), detail: fmt.Sprintf(format, args...),
	}
}

// syntax words an error of the tokenizer.
func (d *strictDecoder) syntax(err error) *jsonError {
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntactic):
	case errors.Is(err, io.EOF):
		return &jsonError{offset: -1, detail: "the body is empty"}
	default:
		return &jsonError{offset: d.tokens.InputOffset(), detail: "the document cannot be read"}
	}
	fault := &jsonError{pointer: string(syntactic.JSONPointer), offset: syntactic.ByteOffset}
	switch {
	case errors.Is(syntactic.Err, jsontext.ErrDuplicateName):
		fault.detail = fmt.Sprintf("the field %q comes twice", syntactic.JSONPointer.LastToken())
	case errors.Is(syntactic.Err, io.ErrUnexpectedEOF):
		fault.detail = "the document ends too early"
	case errors.Is(syntactic.Err, jsontext.ErrNonStringName):
		fault.detail = "a field name must be a string"
	case syntactic.Err != nil:
		fault.detail = strings.TrimPrefix(syntactic.Err.Error(), "jsontext: ")
	default:
		fault.detail = "the document is not JSON"
	}
	return fault
}
