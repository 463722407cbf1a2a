package participant

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
)

// Caller makes calls: it knows routes, providers and prompts.
type Caller interface {
	// Plan looks at a request and tells what it can cost. An error is a *[Failure] when
	// the request is not one that can be made.
	Plan(ctx context.Context, request aievents.CompleteRequest) (Plan, error)
}

// Plan is a call that can be made.
type Plan struct {
	// Targets, Most and Cap are those of [budget.Call].
	Targets []ai.Model
	Most    ai.Usage
	Cap     ai.NanoUSD
	// Do makes the call on a reservation, with an attempt for each request that leaves.
	// It returns when all attempts have ended. An error is a *[Failure], a
	// *[budget.Refusal], or anything else, which is tried again as a Failure may be.
	Do func(ctx context.Context, reservation *budget.Reservation) (Answer, error)
}

// Answer is what came of a call.
type Answer struct {
	Model  ai.Model
	Usage  ai.Usage
	Body   json.RawMessage // the provider's answer
	Output json.RawMessage // what a prompt has made
}

// Failure says why a call gave no result.
type Failure struct { //nolint:errname // it becomes a rejection
	// Code is one of those of [aievents.Complete].
	Code events.Code
	// Message is shown to the client of the saga.
	Message string
	// Again says that trying again may help, and RetryAfter when. It is tried again only
	// if all of its attempts were released.
	Again      bool
	RetryAfter time.Duration
}

// Error implements error.
func (f *Failure) Error() string { return string(f.Code) + ": " + f.Message }

// rejectionOf turns why a call was not let through into what the saga is told.
func rejectionOf(refusal *budget.Refusal) *Failure {
	switch refusal.Code {
	case budget.RateLimited:
		return &Failure{Code: aievents.RateLimited, Message: refusal.Detail}
	case budget.PriceUnknown:
		return &Failure{Code: aievents.PriceUnknown, Message: refusal.Detail}
	case budget.Unavailable:
		return &Failure{Code: aievents.CallUnavailable, Message: refusal.Detail, Again: true}
	default:
		return &Failure{Code: aievents.BudgetExhausted, Message: refusal.Detail}
	}
}

func (f *Failure) reject() error { return events.Reject(f.Code, "%s", f.Message) }

// callOf is what the books are told of a call.
func callOf(id ai.CallID, q *aievents.CompleteRequest, saga string, plan *Plan) budget.Call {
	c := budget.Call{
		ID: id, Caller: ai.Caller(q.Caller), Operation: q.Operation, Model: q.Model, Saga: saga,
		Targets: plan.Targets, Most: plan.Most, Cap: ai.NanoUSD(q.CapNanoUSD),
	}
	if plan.Cap > 0 && (c.Cap == 0 || plan.Cap < c.Cap) {
		c.Cap = plan.Cap
	}
	if q.Prompt != "" {
		c.Operation, c.Model = "prompt", q.Prompt
	}
	return c
}

// check reports what is wrong with a request whatever the routes are.
func check(q *aievents.CompleteRequest) error {
	if q.Operation == "" {
		q.Operation = "chat"
	}
	switch {
	case q.Caller.Tenant == "":
		return fmt.Errorf("%w: the caller has no tenant", events.ErrInvalid)
	case (q.Prompt == "") == (q.Model == ""):
		return fmt.Errorf("%w: want either a model with a body, or a prompt with variables", events.ErrInvalid)
	}
	return nil
}
