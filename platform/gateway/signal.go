package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Signal is a fact that running sagas wait for, as the gateway knows it. A route of
// kind signal takes it from outside.
type Signal struct {
	Type   string
	Schema []byte // JSON Schema 2020-12 of the payload
}

// signalRoute is the target of a route of kind signal.
type signalRoute struct {
	routeID  string
	contract *contract
	to       string // type of the command that started the operation
	guards   []guard
}

func (s signalRoute) leads() string   { return s.contract.Type }
func (s signalRoute) body() *contract { return s.contract }

func (s signalRoute) serve(g *Gateway, _ *snapshot) handler {
	return func(x *exchange, r *http.Request) { g.acceptSignal(x, r, &s) }
}

func readSignalRoute(t *tableReader, rt *route, m mapping) target {
	s := signalRoute{routeID: rt.id, guards: rt.guards}
	if rt.pattern != "" {
		switch {
		case rt.method != http.MethodPost:
			m.failAt(m.at("match"), "match: a signal comes by POST")
		case strings.Count(rt.pattern, "{") != 1 || !strings.Contains(rt.pattern, "/{id}"):
			m.failAt(m.at("match"), "match: want a path with the parameter {id} alone, which is the operation that the signal is for")
		}
	}
	if signalType := m.required("signal"); signalType != "" {
		if s.contract = t.table.signals[signalType]; s.contract == nil {
			m.failAt(m.at("signal"), "signal: %q is unknown, %s", signalType, instead(sortedKeys(t.table.signals)))
		}
	}
	if s.to = m.required("to"); s.to != "" {
		if c := t.table.commands[s.to]; c == nil || !c.Saga {
			m.failAt(m.at("to"), "to: %q starts no saga that could wait, %s", s.to, instead(t.sagaCommands()))
		}
	}
	if s.contract == nil {
		return nil
	}
	return s
}

// acceptSignal takes a signal in: it checks the request and that there is such an
// operation that has not ended, publishes the signal and answers 202. Whether the
// saga still waits for it when it arrives, only the operation tells.
func (g *Gateway) acceptSignal(x *exchange, r *http.Request, s *signalRoute) {
	key, keyed, fault := parseIdempotencyKey(r.Header["Idempotency-Key"])
	if fault != "" {
		x.fail(r, codeIdempotencyKeyInvalid, fault)
		return
	}
	text := r.PathValue("id")
	id, ok := parseOperationID(text)
	if !ok {
		x.fail(r, codeOperationNotFound, "")
		return
	}
	body, ok := g.readCommand(x, r, s.contract)
	if !ok || !g.checkGuards(x, r, s.guards, requestInput(r, body.document)) {
		return
	}
	identity := IdentityOf(r.Context())
	op, err := g.find(r.Context(), id, text)
	switch {
	case errors.Is(err, errGone):
		x.fail(r, codeOperationExpired, goneDetail)
		return
	case errors.Is(err, ErrNotFound):
		x.fail(r, codeOperationNotFound, "")
		return
	case err != nil:
		g.failOperations(x, r, err, "The signal was not sent. Try again in a moment.")
		return
	case op.Status == StatusAccepted: // its saga will tell what it takes
	case op.Command != s.to:
		x.fail(r, codeOperationNotFound, "")
		return
	case op.Status.done():
		x.fail(r, codeOperationEnded, fmt.Sprintf("The operation has ended %s, so nothing waits for the signal.", op.Status))
		return
	}
	eventID := g.mint.fresh("", time.Now()).String()
	if keyed {
		eventID = g.mint.derived("", macOfKey, identity.Tenant, identity.Client, http.MethodPost, s.routeID, text, key).String()
	}
	if !g.publishSignal(x, r, s, eventID, text, body.bytes) {
		return
	}
	x.tellDurability(g.config.Durability)
	writeAccepted(x, text, op.Status)
}

// publishSignal stores the signal. It reports false after it has answered.
func (g *Gateway) publishSignal(x *exchange, r *http.Request, s *signalRoute, eventID, operation string, body []byte) bool {
	// A client that goes away does not take its signal back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), g.config.PublishTimeout)
	defer cancel()
	e := events.Event{
		ID: eventID, Source: eventSource, Type: s.contract.Type, Subject: operation, Time: time.Now().UTC(),
		DataContentType: events.ContentTypeJSON, Data: body, CorrelationID: operation, PartitionKey: operation,
	}
	IdentityOf(ctx).mark(&e)
	propagation.TraceContext{}.Inject(ctx, (*eventCarrier)(&e))
	_, err := g.deps.Publisher.Publish(ctx, broker.Message{Topic: s.contract.Topic, PublishID: eventID, Event: e})
	switch {
	case err == nil:
		return true
	case errors.Is(err, broker.ErrOverloaded):
		x.failLater(r, codeOverloaded, "The signal was not sent. Try again in a moment.")
	case errors.Is(err, broker.ErrRejected):
		x.failInternal(r, "publish "+s.contract.Type+" to "+operation, err)
	default:
		g.logger.WarnContext(r.Context(), "signal was not confirmed by the broker",
			slog.String("operation_id", operation), slog.String("signal", s.contract.Type), slog.Any("error", err))
		x.failLater(r, codeBrokerUnavailable, "Whether the signal was accepted is unknown. Send it again with the same Idempotency-Key, or look at the operation first.")
	}
	return false
}
