package wire

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"

	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/participant"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/ai/upstream"
	aiwire "github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/gateway"
)

// asking has the models of the AI route asked by others than its clients: by prompts
// and by sagas.
type asking struct {
	models *aiRoute
	runner *prompt.Runner
}

func newAsking(models *aiRoute, prompts *prompt.Store) *asking {
	a := &asking{models: models}
	a.runner = prompt.NewRunner(prompts, completions{a})
	return a
}

// plan reads a request as the route does.
func (a *asking) plan(format aiwire.Format, caller ai.Caller, model string, header http.Header, data []byte) (*route.Inside, error) {
	object, err := body.Parse(data)
	if err != nil {
		return nil, aiwire.Invalid("", err.Error())
	}
	if object.Get("stream").Bool() {
		return nil, aiwire.Invalid("stream", "The answer cannot come in parts here.")
	}
	return a.models.Inside(route.Call{Request: upstream.Request{Format: format, Model: model, Tenant: caller.Tenant, Body: object, Header: header}, Caller: caller})
}

// completions asks for chat completions on behalf of prompts.
type completions struct{ *asking }

// Plan implements [prompt.Model].
func (c completions) Plan(caller ai.Caller, model string, data []byte) (prompt.Asking, error) {
	plan, err := c.plan(aiwire.Chat, caller, model, nil, data)
	if err != nil {
		return prompt.Asking{}, err
	}
	return prompt.Asking{Targets: plan.Targets, Most: plan.Most, Do: func(ctx context.Context, r *budget.Reservation) (prompt.Answered, error) {
		answer, err := plan.Do(ctx, r)
		if err != nil {
			return prompt.Answered{}, err
		}
		defer answer.Close()
		return prompt.Answered{Model: answer.Model, Usage: answer.Usage, Body: answer.Body}, nil
	}}, nil
}

// Plan implements [participant.Caller].
func (a *asking) Plan(ctx context.Context, q aievents.CompleteRequest) (participant.Plan, error) {
	if q.Prompt != "" {
		ready, err := a.runner.Prepare(ctx, ai.Caller(q.Caller), q.Prompt, q.Variables)
		if err != nil {
			return participant.Plan{}, failureOf(err)
		}
		return participant.Plan{Targets: ready.Targets, Most: ready.Most, Cap: ready.Cap, Do: func(ctx context.Context, r *budget.Reservation) (participant.Answer, error) {
			result, err := ready.Do(ctx, r)
			return participant.Answer{Model: result.Model, Usage: result.Usage, Output: result.Output}, failureOf(err)
		}}, nil
	}
	format := aiwire.Chat
	if q.Operation != "" {
		format = aiwire.Format(q.Operation)
	}
	object, err := body.Parse(q.Body)
	if err != nil {
		return participant.Plan{}, &participant.Failure{Code: aievents.CallRefused, Message: "body: " + err.Error()}
	}
	object.SetText("model", q.Model)
	var header http.Header
	if len(q.AnthropicBeta) > 0 && format == aiwire.Messages {
		header = http.Header{betaHeader: q.AnthropicBeta}
	}
	plan, err := a.plan(format, ai.Caller(q.Caller), q.Model, header, object.Bytes())
	if err != nil {
		return participant.Plan{}, failureOf(err)
	}
	return participant.Plan{Targets: plan.Targets, Most: plan.Most, Do: func(ctx context.Context, r *budget.Reservation) (participant.Answer, error) {
		answer, err := plan.Do(ctx, r)
		if err != nil {
			return participant.Answer{}, failureOf(err)
		}
		defer answer.Close()
		return participant.Answer{Model: answer.Model, Usage: answer.Usage, Body: json.RawMessage(answer.Body)}, nil
	}}, nil
}

// failureOf tells a saga what it must know of an error; what may pass stays an error.
func failureOf(err error) error {
	if err == nil {
		return nil
	}
	if told, ok := errors.AsType[*aiwire.Error](err); ok {
		f := &participant.Failure{Code: aievents.CallRefused, Message: told.Message, RetryAfter: told.RetryAfter}
		if told.Status == http.StatusTooManyRequests || told.Status >= http.StatusInternalServerError {
			f.Code, f.Again = aievents.CallUnavailable, true
		}
		return f
	}
	if invalid, ok := errors.AsType[*prompt.InvalidError](err); ok {
		return &participant.Failure{Code: aievents.CallRefused, Message: invalid.Error()}
	}
	if output, ok := errors.AsType[*prompt.OutputError](err); ok {
		return &participant.Failure{Code: aievents.OutputInvalid, Message: output.Error()}
	}
	if errors.Is(err, prompt.ErrNotFound) {
		return &participant.Failure{Code: aievents.CallRefused, Message: err.Error()}
	}
	return err
}

// newAIParticipant makes the participant that makes AI calls for sagas.
func newAIParticipant(process *Process, pool *pgxpool.Pool, wake func(), m money, models *aiRoute) *participant.Participant {
	return participant.New(pool, participant.Config{
		Keeper: m.Keeper, Caller: newAsking(models, m.Prompts), Wake: wake, Logger: process.Logger,
	})
}

// promptHandler serves prompts as endpoints; nil where there is no database of them.
func promptHandler(process *Process, m money, models *aiRoute) http.Handler {
	if m.Prompts == nil {
		return nil
	}
	return prompt.NewHandler(prompt.HandlerConfig{
		Runner: newAsking(models, m.Prompts).runner, Keeper: m.Keeper, Logger: process.Logger,
		Caller: func(r *http.Request) ai.Caller { return route.CallerOf(gateway.IdentityOf(r.Context())) },
		Async:  models.promptLater,
		Explain: func(err error) (status int, code, detail string, ok bool) {
			told, ok := errors.AsType[*aiwire.Error](err)
			if !ok {
				return 0, "", "", false
			}
			return told.Status, told.Code, "the model: " + told.Message, true
		},
	})
}
