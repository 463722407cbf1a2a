// Package payload checks what events carry against the JSON Schemas of their
// contracts. Handlers need it little, for their decoder refuses what does not fit the
// Go type; it finds what a decoder passes over: missing properties, values outside
// their limits, unknown values of a list.
package payload

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/schema"
	"github.com/countermand/countermand/platform/payload/certain"
)

// ErrInvalid is wrapped by what [Validator.Check] finds wrong.
var ErrInvalid = errors.New("payload breaks its contract")

// faultsMax is how many faults an error tells.
const faultsMax = 10

// Validator holds compiled schemas. It is safe for concurrent use.
type Validator struct{ schemas map[string]compiled }

type compiled struct {
	schema  *jsonschema.Schema
	certain *certain.Checker // of the same schema
}

// New compiles schemas, each complete in itself. Properties that they do not know
// are allowed, since a sender may be newer. See [schema.Open].
func New(schemas ...schema.Schema) (*Validator, error) {
	v := &Validator{schemas: make(map[string]compiled, len(schemas))}
	for _, s := range schemas {
		schema, err := compile(s)
		if err != nil {
			return nil, fmt.Errorf("schema of %s: %w", s.Name, err)
		}
		v.schemas[s.Name] = compiled{schema, certain.Of(schema)}
	}
	return v, nil
}

// complete keeps a schema from making a process read files or URLs.
type complete struct{}

func (complete) Load(string) (any, error) {
	return nil, errors.New("a schema must be complete in itself")
}

func compile(s schema.Schema) (*jsonschema.Schema, error) {
	open, err := schema.Open(s.Document)
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(open))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(complete{})
	compiler.AssertFormat()
	location := "urn:countermand:payload:" + s.Name
	if err := compiler.AddResource(location, document); err != nil {
		return nil, err
	}
	return compiler.Compile(location)
}

// Check reports what is wrong with the payload of e, each fault with its JSON
// Pointer into the payload, wrapping [ErrInvalid]. An event of a type that has no
// schema here passes, and so does one without data, which is for the decoder to
// judge.
func (v *Validator) Check(e *events.Event) error {
	of, ok := v.schemas[e.Type]
	if !ok || len(e.Data) == 0 || of.certain.Passes(e.Data) {
		return nil
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.Data))
	if err != nil {
		return fmt.Errorf("%w %s: it is no JSON: %w", ErrInvalid, e.Type, err)
	}
	err = of.schema.Validate(document)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return fmt.Errorf("%w %s: %w", ErrInvalid, e.Type, err)
	}
	found := faults(nil, invalid, message.NewPrinter(language.English))
	slices.Sort(found)
	found = slices.Compact(found)
	more := ""
	if n := len(found) - faultsMax; n > 0 {
		found, more = found[:faultsMax], fmt.Sprintf("; and %d more", n)
	}
	return fmt.Errorf("%w %s: %s%s", ErrInvalid, e.Type, strings.Join(found, "; "), more)
}

// faults appends the leaves of e, which say what is wrong.
func faults(all []string, e *jsonschema.ValidationError, printer *message.Printer) []string {
	if len(e.Causes) == 0 {
		return append(all, pointer(e.InstanceLocation)+" "+e.ErrorKind.LocalizedString(printer))
	}
	for _, cause := range e.Causes {
		all = faults(all, cause, printer)
	}
	return all
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

func pointer(tokens []string) string {
	if len(tokens) == 0 {
		return `""` // the whole of it
	}
	var b strings.Builder
	for _, token := range tokens {
		b.WriteByte('/')
		_, _ = escaper.WriteString(&b, token)
	}
	return b.String()
}
