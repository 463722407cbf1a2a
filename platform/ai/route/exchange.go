package route

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
)

// exchange is one call of a client.
type exchange struct {
	h        *Handler
	s        *settings
	w        http.ResponseWriter
	r        *http.Request
	f        *format
	out      *writer
	call     Call
	observed *observe.Call

	reservation *budget.Reservation
	usage       ai.Usage
	failed      error
}

// run makes the call and gives the answer. What it returns has not been told to the
// client yet.
func (x *exchange) run() error {
	if err := x.read(); err != nil {
		return err
	}
	x.redact()
	if err := x.guardRequest(); err != nil {
		return err
	}
	plan, err := x.h.router.Plan(x.call.Request)
	if err != nil {
		return err
	}
	if x.h.config.Async != nil && prefersAsync(x.r.Header) {
		x.h.config.Async(x.w, x.r, x.call)
		return nil
	}
	x.observed.Model(plan.Model)
	key, cached := x.cached()
	if cached != nil {
		x.w.Header().Set("X-Ai-Cache", "hit")
		x.begin(0, 0)
		x.json(cached)
		return nil
	}
	x.reservation, err = x.h.config.Keeper.Reserve(x.r.Context(), budget.Call{
		Caller: x.call.Caller, Operation: string(x.call.Format), Model: x.call.Model, Targets: plan.Targets, Most: plan.Most,
	})
	if err != nil {
		return refusal(err)
	}
	defer x.reservation.Close()
	answer, err := plan.Do(x.r.Context(), reserved{x.reservation})
	if err != nil {
		return refusal(err)
	}
	defer answer.Close()
	if answer.InParts() {
		return x.stream(answer)
	}
	x.usage = answer.Usage
	if err := x.guardResponse(answer.Body); err != nil {
		return err
	}
	x.logContent(func() string { return answerText(answer.Body) })
	x.keep(key, answer.Body)
	x.begin(answer.Attempts, answer.Waited)
	x.w.Header().Set("X-Ai-Cost", x.reservation.Cost().String())
	x.json(answer.Body)
	return nil
}

// reserved makes a reservation of the budgets one of upstream.
type reserved struct{ *budget.Reservation }

// Dispatch begins an attempt.
func (r reserved) Dispatch(ctx context.Context, model ai.Model) (upstream.Attempt, error) {
	a, err := r.Reservation.Dispatch(ctx, model)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// refusal makes an error for clients of one of the budgets.
func refusal(err error) error {
	var refused *budget.Refusal
	if !errors.As(err, &refused) {
		return err
	}
	return &wire.Error{Status: refused.HTTPStatus(), Code: string(refused.Code), Message: refused.Detail, RetryAfter: refused.RetryAfter}
}

// begin sets the header fields of an answer.
func (x *exchange) begin(attempts int, waited time.Duration) {
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if x.reservation != nil {
		h.Set("X-Ai-Call-Id", x.reservation.ID().String())
		h.Set("X-Ai-Attempts", strconv.Itoa(attempts))
	}
	overhead := x.observed.Began(waited, x.call.Stream)
	h.Set("X-Ai-Overhead", strconv.FormatInt(overhead.Microseconds(), 10)+"us")
}

func (x *exchange) json(data []byte) {
	h := x.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	_ = x.out.write(data, false) // the client is gone when this fails
}

// fail tells the client of an error, when its answer has not begun.
func (x *exchange) fail(err error) {
	x.failed = err
	var told *wire.Error
	if !errors.As(err, &told) {
		if x.r.Context().Err() != nil {
			return // nobody is there
		}
		x.h.config.Logger.ErrorContext(x.r.Context(), "AI call failed", slog.Any("error", err))
		told = &wire.Error{Status: http.StatusInternalServerError, Code: "internal_error", Message: "The call could not be made."}
		x.failed = told
	}
	if x.reservation != nil {
		h := x.w.Header()
		h.Set("X-Ai-Call-Id", x.reservation.ID().String())
		h.Set("X-Ai-Attempts", strconv.Itoa(x.reservation.Attempts()))
		h.Set("X-Ai-Cost", x.reservation.Cost().String())
	}
	x.f.fail(x.w, told)
}

// end tells what became of the call.
func (x *exchange) end() {
	var (
		id       ai.CallID
		attempts int
		cost     ai.NanoUSD
	)
	if x.reservation != nil {
		id, attempts, cost = x.reservation.ID(), x.reservation.Attempts(), x.reservation.Cost()
	}
	x.observed.End(id, attempts, x.usage, cost, x.failed)
}
