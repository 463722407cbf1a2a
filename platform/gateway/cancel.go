package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// serveCancel answers DELETE /v1/operations/{id}: it asks the saga to undo what it
// did. 202 says that it was asked, or undoes or has undone it already; the operation
// tells what came of it, since the saga may pass its pivot first.
func (g *Gateway) serveCancel(x *exchange, r *http.Request, s *snapshot) {
	q, ok := g.inquire(x, r, "Nothing was cancelled. Try again in a moment.")
	if !ok {
		return
	}
	defer q.waiter.leave()
	op := q.op
	if p := s.table.uncancellable(&op); p != nil {
		p.Instance = operationPath(q.id)
		x.problem(r, p)
		return
	}
	byOutbox := s.table.cancelsByOutbox(&op)
	if op.Status != StatusCompensating && op.Status != StatusCompensated && !g.publishCancel(x, r, q.id, byOutbox) {
		return
	}
	h := x.Header()
	h.Set("Vary", "Prefer")
	if q.applied != "" {
		h.Set("Preference-Applied", q.applied)
	}
	if q.waiter != nil {
		op = g.await(r.Context(), q.waiter, op, q.until, func(op *Operation) bool { return op.Status.settled() })
		if op.Status.done() {
			g.writeOperation(x, r, s, &op, q.applied)
			return
		}
	}
	x.tellDurability(g.durabilityOf(byOutbox))
	writeAccepted(x, q.id, op.Status)
}

// uncancellable returns why an operation cannot be cancelled; nil when it can.
func (t *Table) uncancellable(op *Operation) *Problem {
	switch command := t.commands[op.Command]; {
	case op.Status == StatusCompleted || op.Status == StatusAbandoned:
		return newProblem(codeOperationEnded, "The operation has ended "+string(op.Status)+", so there is nothing to cancel.")
	case op.Pivoted:
		return newProblem(codePastPivot, "The operation has passed the step after which it only goes forward.")
	case op.Status == StatusAccepted: // which command it was is not known yet
		return nil
	case command == nil || !command.Saga || t.outcomeOf(op.Command).cancelRefused:
		return newProblem(codeCancelRefused, "Operations of this kind are not cancelled by clients.")
	}
	return nil
}

// cancelsByOutbox reports whether a cancel goes the way of the operation's command: to the
// [Intake], from which it follows a command that waits there for the broker.
func (t *Table) cancelsByOutbox(op *Operation) bool {
	if op.Status == StatusAccepted { // which command it was is not known yet
		return t.AcceptsByOutbox()
	}
	first := t.first[op.Command]
	return first != nil && first.outbox
}

// publishCancel asks the saga. It reports false after it has answered.
func (g *Gateway) publishCancel(x *exchange, r *http.Request, operation string, byOutbox bool) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), g.config.PublishTimeout)
	defer cancel()
	identity := IdentityOf(r.Context())
	e := events.Event{
		// A cancel that is asked for again is sent again: the first one may have come
		// too early or been refused for a reason that has gone. The saga takes one.
		ID: g.mint.fresh("", time.Now()).String(), Source: eventSource, Type: events.CancelType, Subject: operation,
		Time: time.Now().UTC(), CorrelationID: operation, PartitionKey: operation,
	}
	identity.mark(&e)
	propagation.TraceContext{}.Inject(ctx, (*eventCarrier)(&e))
	var err error
	message, unavailable := broker.Message{Topic: events.Signals, PublishID: e.ID, Event: e}, codeBrokerUnavailable
	if byOutbox {
		unavailable = codeStoreUnavailable
		_, _, err = g.deps.Intake.Accept(ctx, message, "")
	} else {
		_, err = g.deps.Publisher.Publish(ctx, message)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, broker.ErrOverloaded):
		x.failLater(r, codeOverloaded, "Nothing was cancelled. Try again in a moment.")
	case errors.Is(err, broker.ErrRejected):
		x.failInternal(r, "publish "+events.CancelType+" to "+operation, err)
	default:
		g.logger.WarnContext(r.Context(), "cancel was not confirmed", slog.String("operation_id", operation), slog.Bool("outbox", byOutbox), slog.Any("error", err))
		x.failLater(r, unavailable, "Whether the operation is being cancelled is unknown. It is safe to repeat the request.")
	}
	return false
}
