package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/otel/propagation"

	"github.com/countermand/countermand/platform/broker"
)

// acceptedEvent is what became of one event of a request.
type acceptedEvent struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	Status int    `json:"status"`
	// Duplicate says that an event of that source and id was there already.
	Duplicate bool     `json:"duplicate,omitempty"`
	Problem   *Problem `json:"problem,omitempty"`
}

// acceptEvents takes CloudEvents in: all of a request pass every check or none is
// published. It answers 202 when all are stored, and 207 when only some are.
func (g *Gateway) acceptEvents(x *exchange, r *http.Request, e *eventsRoute) {
	if r.Header.Get("Content-Encoding") != "" {
		x.Header().Set("Accept-Encoding", "identity")
		x.fail(r, codeUnsupportedEncoding, "Send the body without Content-Encoding.")
		return
	}
	body, problem := readBody(x.ResponseWriter, r, g.config.BodyBytesMax)
	if problem != nil {
		x.problem(r, problem)
		return
	}
	all, problem := readEvents(r.Header, body)
	if problem == nil {
		problem = e.check(r, all, func(one *guard, err error) { g.untold(x, r, one, err) })
	}
	if problem != nil {
		if problem.Code == codeUnsupportedMediaType {
			x.Header().Set("Accept-Post", acceptEvents)
		}
		x.problem(r, problem)
		return
	}
	// A client that goes away does not take its events back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), g.config.PublishTimeout)
	defer cancel()
	g.answerEvents(x, r, all, g.publishEvents(ctx, e, all))
}

// publishEvents sets what the edge sets on events and stores them.
func (g *Gateway) publishEvents(ctx context.Context, e *eventsRoute, all []incoming) []broker.Receipt {
	identity := IdentityOf(ctx)
	messages := make([]broker.Message, len(all))
	for i := range all {
		event := all[i].event
		// CloudEvents makes source and id together unique. The tenant is part of it, or
		// one could keep another's events from being stored.
		id := g.mint.derived("", macOfEvent, identity.Tenant, event.Source, event.ID).String()
		event.CorrelationID = id // what it causes belongs to it, and to no saga that the sender names
		identity.mark(&event)
		propagation.TraceContext{}.Inject(ctx, (*eventCarrier)(&event))
		messages[i] = broker.Message{Topic: e.to, PublishID: id, Event: event}
	}
	if len(messages) != 1 {
		return g.deps.Publisher.PublishTogether(ctx, messages)
	}
	receipt, err := g.deps.Publisher.Publish(ctx, messages[0])
	receipt.Err = err
	return []broker.Receipt{receipt}
}

// answerEvents tells what became of the events.
func (g *Gateway) answerEvents(x *exchange, r *http.Request, all []incoming, receipts []broker.Receipt) {
	answer := struct {
		Events []acceptedEvent `json:"events"`
	}{make([]acceptedEvent, len(all))}
	var failed int
	var first *Problem
	for i, receipt := range receipts {
		a := &answer.Events[i]
		*a = acceptedEvent{ID: all[i].event.ID, Source: all[i].event.Source, Status: http.StatusAccepted, Duplicate: receipt.Duplicate}
		if receipt.Err == nil {
			continue
		}
		a.Problem = eventProblem(receipt.Err)
		a.Status = a.Problem.Status
		if failed++; first == nil {
			first = eventProblem(receipt.Err)
			g.logger.WarnContext(r.Context(), "event was not confirmed by the broker", slog.String("route", x.endpoint.id),
				slog.String("event_id", a.ID), slog.Int("events", len(all)), slog.Any("error", receipt.Err))
		}
	}
	if failed > 0 && failed == len(all) {
		if first.Retriable {
			x.Header().Set("Retry-After", "1")
		}
		x.problem(r, first)
		return
	}
	body, err := encode(answer)
	if err != nil {
		x.failInternal(r, "encode events", err)
		return
	}
	status := http.StatusAccepted
	if failed > 0 {
		status = http.StatusMultiStatus
		x.Header().Set("Retry-After", "1")
	}
	x.Header().Set("Cache-Control", noStore)
	x.tellDurability(g.config.Durability)
	x.json(status, contentTypeJSON, body)
}

// eventProblem tells why an event is not known to be stored.
func eventProblem(err error) *Problem {
	switch {
	case errors.Is(err, broker.ErrOverloaded):
		return newProblem(codeOverloaded, "Nothing was published. Try again in a moment.")
	case errors.Is(err, broker.ErrRejected):
		return newProblem(codeInternal, "The broker takes no such event.")
	}
	return newProblem(codeBrokerUnavailable, "Whether the event was stored is unknown. It is safe to send it again with the same source and id.")
}
