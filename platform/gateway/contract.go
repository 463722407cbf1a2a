package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/payload/certain"
)

// Command is a command contract as the gateway knows it.
type Command struct {
	Type   string
	Topic  events.Topic
	Schema []byte // JSON Schema 2020-12 of the request
	// Saga says that the command starts a saga. Only such commands can be sent
	// from outside: the others are the engine's to send.
	Saga bool
	// Rejections are the codes a saga that it starts may end with. When there are
	// any, a route's outcome may name no other.
	Rejections []events.Code
}

// Contracts are what a route table may speak of.
type Contracts struct {
	Commands []Command
	Signals  []Signal
	// Facts are known to routes of kind events: the payload of one is checked.
	Facts []Fact
}

// contract is a command with its schema compiled.
type contract struct {
	Command
	schema  *jsonschema.Schema
	certain *certain.Checker // of the same schema
}

// errNoExternalSchema keeps a schema from making the gateway read files or URLs.
var errNoExternalSchema = errors.New("a schema must be complete in itself")

type noLoader struct{}

func (noLoader) Load(string) (any, error) { return nil, errNoExternalSchema }

func compileContract(c Command) (*contract, error) {
	if err := errors.Join(events.ValidateType(c.Type), c.Topic.Validate()); err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(c.Schema))
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", c.Type, err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(noLoader{})
	compiler.AssertFormat()
	compiler.AssertVocabs()
	compiler.RegisterVocabulary(&jsonschema.Vocabulary{
		URL: "urn:countermand:vocabulary:written-integer", Compile: compileWrittenInteger,
	})
	location := "urn:countermand:command:" + c.Type
	if err := compiler.AddResource(location, document); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", c.Type, err)
	}
	schema, err := compiler.Compile(location)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", c.Type, err)
	}
	return &contract{Command: c, schema: schema, certain: certain.Of(schema, writtenInteger{})}, nil
}

// writtenInteger makes "type": "integer" refuse 1.0 and 1e2. To JSON Schema they
// are integers, but the participants' decoder refuses them, and by then the
// command has been accepted.
type writtenInteger struct{}

func compileWrittenInteger(_ *jsonschema.CompilerContext, schema map[string]any) (jsonschema.SchemaExt, error) {
	types, _ := schema["type"].([]any)
	if schema["type"] == "integer" || slices.Contains(types, any("integer")) && !slices.Contains(types, any("number")) {
		return writtenInteger{}, nil
	}
	return nil, nil // the library's way to say that the schema has no such keyword
}

// Validate relies on the strict decoder: only a number written without fraction
// and exponent comes as an int64.
func (writtenInteger) Validate(ctx *jsonschema.ValidatorContext, value any) {
	if _, written := value.(float64); written {
		ctx.AddError(notWrittenAsInteger{})
	}
}

type notWrittenAsInteger struct{}

func (notWrittenAsInteger) KeywordPath() []string { return []string{"type"} }

func (notWrittenAsInteger) LocalizedString(*message.Printer) string {
	return "must be an integer, written without fraction and exponent"
}

// check returns what in a decoded document breaks the contract, ordered by
// pointer, and how many violations there are. At most violationsMax are returned.
func (c *contract) check(document any) (violations []Violation, total int) {
	err := c.schema.Validate(document)
	if err == nil {
		return nil, 0
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return []Violation{{Detail: "does not match the schema"}}, 1
	}
	violations = explain(nil, invalid)
	slices.SortFunc(violations, func(a, b Violation) int {
		if order := strings.Compare(a.Pointer, b.Pointer); order != 0 {
			return order
		}
		return strings.Compare(a.Detail, b.Detail)
	})
	violations = slices.Compact(violations)
	return violations[:min(len(violations), violationsMax)], len(violations)
}

// explain appends the violations under e, in the words of who sent the request.
func explain(violations []Violation, e *jsonschema.ValidationError) []Violation {
	add := func(pointer, format string, args ...any) []Violation {
		return append(violations, Violation{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
	at := pointer(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.Reference, *kind.AllOf:
		for _, cause := range e.Causes {
			violations = explain(violations, cause)
		}
		return violations
	case *kind.Required:
		for _, name := range k.Missing {
			violations = add(at+pointer([]string{name}), "is required")
		}
		return violations
	case *kind.DependentRequired:
		for _, name := range k.Missing {
			violations = add(at+pointer([]string{name}), "is required when %q is given", k.Prop)
		}
		return violations
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			violations = add(at+pointer([]string{name}), "unknown field")
		}
		return violations
	case *kind.Type:
		return add(at, "must be %s", withArticles(k.Want))
	case notWrittenAsInteger:
		return add(at, "%s", k.LocalizedString(nil))
	case *kind.Minimum:
		return add(at, "must be at least %s", decimal(k.Want))
	case *kind.Maximum:
		return add(at, "must be at most %s", decimal(k.Want))
	case *kind.ExclusiveMinimum:
		return add(at, "must be more than %s", decimal(k.Want))
	case *kind.ExclusiveMaximum:
		return add(at, "must be less than %s", decimal(k.Want))
	case *kind.MultipleOf:
		return add(at, "must be a multiple of %s", decimal(k.Want))
	case *kind.MinLength:
		return add(at, "must have at least %s", count(k.Want, "character"))
	case *kind.MaxLength:
		return add(at, "must have at most %s", count(k.Want, "character"))
	case *kind.MinItems:
		return add(at, "must have at least %s", count(k.Want, "item"))
	case *kind.MaxItems:
		return add(at, "must have at most %s", count(k.Want, "item"))
	case *kind.MinProperties:
		return add(at, "must have at least %s", count(k.Want, "field"))
	case *kind.MaxProperties:
		return add(at, "must have at most %s", count(k.Want, "field"))
	case *kind.UniqueItems:
		return add(at, "items %d and %d are equal", k.Duplicates[0], k.Duplicates[1])
	case *kind.Pattern:
		return add(at, "must match the pattern %s", k.Want)
	case *kind.Format:
		return add(at, "must be a valid %s", k.Want)
	case *kind.Enum:
		return add(at, "must be %s", oneOf(k.Want))
	case *kind.Const:
		return add(at, "must be %s", oneOf([]any{k.Want}))
	case *kind.FalseSchema, *kind.Not:
		return add(at, "is not allowed")
	case *kind.AnyOf, *kind.OneOf:
		return add(at, "has none of the allowed forms, or more than one")
	}
	return add(at, "breaks the rule %q of its schema", strings.Join(e.ErrorKind.KeywordPath(), " "))
}

func count(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

func decimal(number *big.Rat) string {
	if number.IsInt() {
		return number.RatString()
	}
	f, _ := number.Float64()
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func withArticles(types []string) string {
	words := make([]string, len(types))
	for i, t := range types {
		switch t {
		case "null":
			words[i] = "null"
		case "integer", "object", "array":
			words[i] = "an " + t
		default:
			words[i] = "a " + t
		}
	}
	return strings.Join(words, " or ")
}

func oneOf(values []any) string {
	words := make([]string, len(values))
	for i, value := range values {
		switch v := value.(type) {
		case nil:
			words[i] = "null"
		case string:
			words[i] = strconv.Quote(v)
		default:
			words[i] = fmt.Sprint(v)
		}
	}
	if len(words) == 1 {
		return words[0]
	}
	return "one of " + strings.Join(words, ", ")
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

// pointer returns the JSON Pointer (RFC 6901) of those tokens.
func pointer(tokens []string) string {
	var b strings.Builder
	for _, token := range tokens {
		b.WriteByte('/')
		_, _ = pointerEscaper.WriteString(&b, token)
	}
	return b.String()
}
