// Package schema makes JSON Schemas (2020-12) out of contracts. They describe what
// a sender of this version may send; whoever reads passes over properties that it
// does not know, see [Open].
package schema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/invopop/jsonschema"

	"github.com/countermand/countermand/events"
)

// Kind says who writes and who reads what a schema describes, which decides how it
// may change.
type Kind string

// The kinds of payload.
const (
	Request Kind = "request" // of a command: written by sagas and clients, read by one participant
	Reply   Kind = "reply"   // to a command: written by the participant, read by the saga
	Fact    Kind = "fact"    // read by whoever likes, and again when a topic is replayed
)

// replySuffix makes the name of a reply's schema out of its command's type.
const replySuffix = ".reply"

// Schema is that of one payload.
type Schema struct {
	// Name is the type of the event that carries the payload.
	Name     string
	Kind     Kind
	Document []byte // indented JSON that ends with a line break
}

// Of returns the schemas of the contracts' payloads in their order, a command's
// request before its reply. A reply of type [events.None] has no data, and so no
// schema.
func Of(contracts ...events.Contract) ([]Schema, error) {
	var all []Schema
	for _, contract := range contracts {
		d := contract.Describe()
		kind := Fact
		if d.Kind == events.KindCommand {
			kind = Request
		}
		document, err := Generate(d.Type, d.Request)
		if err != nil {
			return nil, err
		}
		all = append(all, Schema{d.Type, kind, document})
		if !HasReply(d) {
			continue
		}
		if document, err = Generate(d.Type+replySuffix, d.Reply); err != nil {
			return nil, err
		}
		all = append(all, Schema{d.Type + replySuffix, Reply, document})
	}
	return all, nil
}

// HasReply reports whether the reply to a contract's command carries data.
func HasReply(d events.Descriptor) bool {
	return d.Kind == events.KindCommand && d.Reply != nil && d.Reply != reflect.TypeFor[events.None]()
}

// Generate returns the schema of a Go type under that name. Fields that are not
// omitempty are required, and no others are allowed; struct tags say the rest, as
// the package github.com/invopop/jsonschema reads them. A type that contains itself
// has no such schema and is an error.
func Generate(name string, t reflect.Type) ([]byte, error) {
	if cycle := recursion(t, nil); cycle != nil {
		return nil, fmt.Errorf("schema of %s: the type %s contains itself; a contract's depth must be bounded", name, cycle)
	}
	reflector := jsonschema.Reflector{Anonymous: true, DoNotReference: true}
	schema := reflector.ReflectFromType(t)
	schema.ID = jsonschema.ID("urn:countermand:schema:" + name)
	document, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	return append(document, '\n'), nil
}

// recursion returns a type that is met inside itself; nil when there is none.
func recursion(t reflect.Type, path []reflect.Type) reflect.Type {
	if slices.Contains(path, t) {
		return t
	}
	path = append(path, t)
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return recursion(t.Elem(), path)
	case reflect.Struct:
		for field := range t.Fields() {
			if !field.IsExported() && !field.Anonymous {
				continue
			}
			if inner := recursion(field.Type, path); inner != nil {
				return inner
			}
		}
	default:
	}
	return nil
}

// Open returns the schema as a reader applies it: without what forbids properties
// that it does not know. A sender of a newer version may have added some.
func Open(document []byte) ([]byte, error) {
	var root any
	if err := json.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("open schema: %w", err)
	}
	open(root)
	out, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("open schema: %w", err)
	}
	return out, nil
}

func open(node any) {
	switch node := node.(type) {
	case map[string]any:
		for keyword, value := range node {
			switch keyword {
			case "additionalProperties", "unevaluatedProperties":
				if value == false {
					delete(node, keyword)
					continue
				}
			case "const", "enum", "default", "examples": // data, not schemas
				continue
			case "properties", "patternProperties", "$defs", "dependentSchemas":
				if named, ok := value.(map[string]any); ok { // whose keys are names, not keywords
					for _, inner := range named {
						open(inner)
					}
					continue
				}
			}
			open(value)
		}
	case []any:
		for _, inner := range node {
			open(inner)
		}
	}
}
