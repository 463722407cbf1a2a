package prompt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
)

// Model asks models; the router of upstreams is one.
type Model interface {
	// Plan looks at the body of a chat completion and tells what it can use.
	Plan(caller ai.Caller, model string, body []byte) (Asking, error)
}

// Asking is a chat completion that can be made.
type Asking struct {
	Targets []ai.Model
	Most    ai.Usage
	// Do makes it on a reservation, and returns the answer in OpenAI's format.
	Do func(ctx context.Context, reservation *budget.Reservation) (Answered, error)
}

// Answered is what a model has said.
type Answered struct {
	Model ai.Model
	Usage ai.Usage
	Body  []byte
}

// Runner calls prompts. It is safe for concurrent use.
type Runner struct {
	store *Store
	model Model
}

// NewRunner returns a runner of the prompts of a store.
func NewRunner(store *Store, model Model) *Runner { return &Runner{store, model} }

// Ready is a prompt with its variables, ready to be called once.
type Ready struct {
	Slug    string
	Version int
	// Targets, Most and Cap are those of [budget.Call], with room for repairs.
	Targets []ai.Model
	Most    ai.Usage
	Cap     ai.NanoUSD

	runner *Runner
	caller ai.Caller
	prompt *compiled
	asked  []Message
	first  Asking
}

// Result is what came of a call.
type Result struct {
	Output  json.RawMessage `json:"output"` // a string where the prompt has no schema
	Slug    string          `json:"prompt"`
	Version int             `json:"version"`
	Repairs int             `json:"repairs,omitempty"`

	Model ai.Model `json:"-"`
	Usage ai.Usage `json:"-"`
}

// InvalidError tells which variables break the prompt's schema.
type InvalidError struct{ Faults []string }

// Error implements error.
func (e *InvalidError) Error() string { return "variables: " + strings.Join(e.Faults, "; ") }

// OutputError tells that the model gave nothing that the schema allows, although it
// was asked again.
type OutputError struct {
	Attempts int
	Faults   []string
}

// Error implements error.
func (e *OutputError) Error() string {
	return fmt.Sprintf("the model gave nothing that the output schema allows, asked %d times: %s", e.Attempts, strings.Join(e.Faults, "; "))
}

// Prepare finds a prompt of the caller's and fills it in. Its errors are [ErrNotFound],
// [ErrUnavailable], a *[InvalidError], or what the model's planning says.
func (r *Runner) Prepare(ctx context.Context, caller ai.Caller, reference string, variables []byte) (*Ready, error) {
	c, version, err := r.store.compiled(ctx, caller.Tenant, reference)
	if err != nil {
		return nil, err
	}
	if len(variables) == 0 {
		variables = []byte("{}")
	}
	if len(variables) > variablesMax {
		return nil, &InvalidError{[]string{fmt.Sprintf("they have %d bytes; at most %d are allowed", len(variables), variablesMax)}}
	}
	if found := faults(c.variables, variables); found != nil {
		return nil, &InvalidError{found}
	}
	messages, err := c.fill(variables)
	if err != nil {
		return nil, &InvalidError{[]string{err.Error()}}
	}
	p := &Ready{Slug: c.Slug, Version: version, Cap: c.cap, runner: r, caller: caller, prompt: c, asked: messages}
	if p.first, err = p.ask(messages); err != nil {
		return nil, err
	}
	p.Targets, p.Most = p.first.Targets, p.first.Most
	// A repair reads the answer before it as well, and what was wrong with it.
	p.Most.Input += int64(c.Repairs) * (p.Most.Output + faultTokens)
	return p, nil
}

// faultTokens bounds what a model is told about its mistakes.
const faultTokens = 2000

func (p *Ready) ask(messages []Message) (Asking, error) {
	body := map[string]any{"model": p.prompt.Model, "messages": messages}
	for name, value := range p.prompt.Parameters {
		body[name] = value
	}
	if p.prompt.output != nil {
		body["response_format"] = map[string]any{
			"type":        "json_schema",
			"json_schema": map[string]any{"name": strings.ReplaceAll(p.Slug, "-", "_"), "schema": p.prompt.Output, "strict": true},
		}
	}
	data, err := json.Marshal(body)
	if err != nil {
		return Asking{}, err
	}
	return p.runner.model.Plan(p.caller, p.prompt.Model, data)
}

// Do calls the prompt on a reservation that was made for it. A model whose output
// breaks the schema is asked again as often as the prompt says, each time in an attempt
// of its own. The error is an *[OutputError] when that did not help.
func (p *Ready) Do(ctx context.Context, reservation *budget.Reservation) (Result, error) {
	messages, asking := p.asked, p.first
	result := Result{Slug: p.Slug, Version: p.Version}
	for {
		answered, err := asking.Do(ctx, reservation)
		if err != nil {
			return result, err
		}
		result.Model, result.Usage = answered.Model, result.Usage.Plus(answered.Usage)
		text, err := contentOf(answered.Body)
		if err != nil {
			return result, err
		}
		if p.prompt.output == nil {
			result.Output, err = json.Marshal(text)
			return result, err
		}
		output := unfenced(text)
		found := faults(p.prompt.output, []byte(output))
		if found == nil {
			result.Output = json.RawMessage(output)
			return result, nil
		}
		if result.Repairs == p.prompt.Repairs {
			return result, &OutputError{result.Repairs + 1, found}
		}
		result.Repairs++
		messages = append(messages[:len(p.asked):len(p.asked)],
			Message{"assistant", text},
			Message{"user", "That breaks the JSON Schema of the answer:\n" + clip(strings.Join(found, "\n")) + "\nAnswer again with JSON that keeps to it, and nothing else."})
		if asking, err = p.ask(messages); err != nil {
			return result, err
		}
	}
}

// clip bounds what a model is told, at two bytes of text for a token.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), 2*faultTokens-400)], "")
}

// contentOf returns what the model has said in a chat completion.
func contentOf(body []byte) (string, error) {
	var completion struct {
		Choices []struct {
			Message struct {
				Content *string `json:"content"`
				Refusal string  `json:"refusal"`
			} `json:"message"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(body, &completion); err != nil || len(completion.Choices) == 0 {
		return "", errors.New("the provider's answer has no choice")
	}
	m := completion.Choices[0].Message
	if m.Content == nil {
		return m.Refusal, nil // which breaks any schema
	}
	return *m.Content, nil
}

// unfenced takes off the fence that models like to put around JSON.
func unfenced(text string) string {
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, "```"); ok {
		rest = strings.TrimPrefix(rest, "json")
		if inner, ok := strings.CutSuffix(rest, "```"); ok {
			return strings.TrimSpace(inner)
		}
	}
	return text
}
