package prompt

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/countermand/countermand/platform/ai"
)

// Prompt is what its author writes. Slug, Model, Messages and Variables are required.
type Prompt struct {
	// Slug names the prompt in its path: lower-case letters, digits and dashes.
	Slug        string `json:"slug"`
	Description string `json:"description,omitempty"`
	// Model is the route or model that is asked.
	Model string `json:"model"`
	// Messages are what it is asked. {{name}} stands for a variable: a string as it is,
	// anything else as JSON.
	Messages []Message `json:"messages"`
	// Variables is the JSON Schema of the object that callers send.
	Variables json.RawMessage `json:"variables"`
	// Output is the JSON Schema of what the model must make; a text when empty.
	Output json.RawMessage `json:"output,omitempty"`
	// Parameters go along as they are, such as {"temperature": 0, "max_tokens": 200}.
	Parameters map[string]json.RawMessage `json:"parameters,omitempty"`
	// Repairs is how often a model is asked again whose output breaks the schema: up to 3.
	Repairs int `json:"repairs,omitempty"`
	// CapUSD is what a call may cost with its repairs, such as "0.02"; empty: what
	// budgets allow.
	CapUSD string `json:"cap_usd,omitempty"`
}

// Message of a [Prompt].
type Message struct {
	Role    string `json:"role"` // system, user or assistant
	Content string `json:"content"`
}

// Limits of a prompt.
const (
	repairsMax    = 3
	messagesMax   = 50
	contentMax    = 100_000 // bytes of all messages
	variablesMax  = 1 << 20 // bytes of what a caller sends
	documentsMax  = 256 << 10
	faultsMax     = 10
	placeholders  = `\{\{\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*\}\}`
	slugForm      = `^[a-z0-9][a-z0-9-]{0,79}$`
	reservedNames = "model messages stream response_format n"
)

var (
	placeholder = regexp.MustCompile(placeholders)
	slugPattern = regexp.MustCompile(slugForm)
)

// ErrInvalid is wrapped by the error about a prompt that breaks a rule, and by that
// about variables that break its schema.
var ErrInvalid = errors.New("invalid prompt")

// compiled is a prompt that can be called.
type compiled struct {
	Prompt
	variables, output *jsonschema.Schema // output is nil for a text
	cap               ai.NanoUSD
}

// Validate reports everything that is wrong with p, joined and wrapping [ErrInvalid].
func (p Prompt) Validate() error {
	_, err := p.compile()
	return err
}

func (p Prompt) compile() (*compiled, error) {
	c := &compiled{Prompt: p}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slugPattern.MatchString(p.Slug) {
		fail("slug %q: want lower-case letters, digits and dashes, at most 80", p.Slug)
	}
	if p.Model == "" {
		fail("model: name a route or a model")
	}
	if p.Repairs < 0 || p.Repairs > repairsMax {
		fail("repairs is %d; want 0 to %d", p.Repairs, repairsMax)
	}
	if p.CapUSD != "" {
		var err error
		if c.cap, err = ai.ParseUSD(p.CapUSD); err != nil {
			fail("cap_usd: %w", err)
		}
	}
	for name := range p.Parameters {
		if slices.Contains(strings.Fields(reservedNames), name) {
			fail("parameters: %s is the prompt's to set", name)
		}
	}
	var err error
	if c.variables, err = schemaOf("variables", p.Variables); err != nil {
		fail("variables: %w", err)
	}
	if len(p.Output) > 0 {
		if c.output, err = schemaOf("output", p.Output); err != nil {
			fail("output: %w", err)
		}
	} else if p.Repairs > 0 {
		fail("repairs: without a schema of the output there is nothing to repair")
	}
	errs = append(errs, p.checkMessages()...)
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, errors.Join(errs...))
	}
	return c, nil
}

// checkMessages reports what is wrong with the messages.
func (p Prompt) checkMessages() (errs []error) {
	if len(p.Messages) == 0 || len(p.Messages) > messagesMax {
		return []error{fmt.Errorf("messages: want 1 to %d", messagesMax)}
	}
	var schema struct {
		Type       string                     `json:"type"`
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if json.Unmarshal(p.Variables, &schema) != nil || schema.Type != "object" {
		errs = append(errs, errors.New("variables: want the schema of an object"))
	}
	total := 0
	for i, m := range p.Messages {
		if !slices.Contains([]string{"system", "user", "assistant"}, m.Role) {
			errs = append(errs, fmt.Errorf("message %d: role %q: want system, user or assistant", i+1, m.Role))
		}
		total += len(m.Content)
		for _, found := range placeholder.FindAllStringSubmatch(m.Content, -1) {
			if _, ok := schema.Properties[found[1]]; !ok {
				errs = append(errs, fmt.Errorf("message %d: {{%s}} is no property of variables", i+1, found[1]))
			}
		}
	}
	if total > contentMax {
		errs = append(errs, fmt.Errorf("messages have %d bytes; at most %d are allowed", total, contentMax))
	}
	return errs
}

// alone keeps a schema from making a process read files or URLs.
type alone struct{}

func (alone) Load(string) (any, error) { return nil, errors.New("a schema must be complete in itself") }

func schemaOf(name string, document []byte) (*jsonschema.Schema, error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return nil, fmt.Errorf("it is no JSON: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(alone{})
	compiler.AssertFormat()
	location := "urn:countermand:prompt:" + name
	if err := compiler.AddResource(location, parsed); err != nil {
		return nil, err
	}
	return compiler.Compile(location)
}

// faults tells what of data breaks the schema; nil: nothing does.
func faults(schema *jsonschema.Schema, data []byte) (found []string) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return []string{"it is no JSON: " + err.Error()}
	}
	err = schema.Validate(document)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []string{err.Error()}
	}
	printer := message.NewPrinter(language.English)
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			found = append(found, strings.TrimSpace("/"+strings.Join(e.InstanceLocation, "/")+" "+e.ErrorKind.LocalizedString(printer)))
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(invalid)
	slices.Sort(found)
	return found[:min(len(found), faultsMax)]
}

// fill puts variables into the messages. They have been checked.
func (c *compiled) fill(variables []byte) ([]Message, error) {
	values := make(map[string]json.RawMessage)
	if err := json.Unmarshal(variables, &values); err != nil {
		return nil, err
	}
	filled := make([]Message, len(c.Messages))
	for i, m := range c.Messages {
		filled[i] = Message{m.Role, placeholder.ReplaceAllStringFunc(m.Content, func(name string) string {
			value := values[placeholder.FindStringSubmatch(name)[1]]
			var text string
			if value == nil || json.Unmarshal(value, &text) == nil { // one that is left out is empty
				return text
			}
			return string(value)
		})}
	}
	return filled, nil
}

// digest names the content of a prompt.
func digest(document []byte) string { return fmt.Sprintf("%x", sha256.Sum256(document)) }
