package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway/expression"
)

// eventSource is the source attribute of every event the gateway makes.
const eventSource = "/gateway"

// Publisher stores messages durably. A [broker.Committer] is one.
type Publisher interface {
	Publish(ctx context.Context, message broker.Message) (broker.Receipt, error)
	// PublishTogether stores all of them, or none where the broker can, and returns a
	// receipt for each.
	PublishTogether(ctx context.Context, messages []broker.Message) []broker.Receipt
}

// acceptance is how a route takes its command.
type acceptance struct {
	routeID     string
	method      string
	contract    *contract
	keyRequired bool
	key         *expression.Program // makes the business key; nil when there is none
	guards      []guard
	demand      *demand
	waitDefault time.Duration
	waitMax     time.Duration
	outcome     *outcome
	outbox      bool // it goes to the Intake, and from there to the broker
}

// submission is one command on its way in.
type submission struct {
	id          string
	received    time.Time
	keyed       bool // its id derives from a key, so a repeat finds it
	business    bool // the key is the route's, not the client's
	fingerprint string
	expires     string // RFC 3339; empty for never
	identity    Identity
	body        []byte

	strict  bool
	wait    *waiter // nil when the client does not wait
	until   time.Time
	applied string // Preference-Applied
}

// serveAnyCommand answers POST /v1/commands/{type}. What the first route of the
// command demands is demanded here as well, or this would be a way around it.
func (g *Gateway) serveAnyCommand(x *exchange, r *http.Request, s *snapshot) {
	c, ok := s.table.commands[r.PathValue("type")]
	d := s.table.auth.builtIn
	if first := s.table.first[r.PathValue("type")]; first != nil {
		d = first.demand
	}
	if r = g.authenticate(x, r, s, d); r == nil {
		return
	}
	if !ok || !c.Saga {
		x.fail(r, codeUnknownCommand, "No command of that type can be sent from outside.")
		return
	}
	a := acceptance{waitMax: g.config.WaitMax, outcome: genericOutcome}
	if first := s.table.first[c.Type]; first != nil {
		a.guards, a.key, a.keyRequired, a.outcome, a.outbox = first.guards, first.key, first.keyRequired, first.outcome, first.outbox
	}
	a.routeID, a.method, a.contract = x.endpoint.id, http.MethodPost, c
	g.accept(x, r, &a)
}

// accept takes a command in: it checks the request, publishes the command and
// answers, now or after the wait that the client asked for.
func (g *Gateway) accept(x *exchange, r *http.Request, a *acceptance) {
	received := x.started
	key, keyed, fault := parseIdempotencyKey(r.Header["Idempotency-Key"])
	switch {
	case fault != "":
		x.fail(r, codeIdempotencyKeyInvalid, fault)
		return
	case a.keyRequired && !keyed:
		x.fail(r, codeIdempotencyKeyMissing, "This route takes no request without an Idempotency-Key header.")
		return
	}
	prefer := parsePrefer(r.Header["Prefer"])
	if why := prefer.refusal(a.waitMax); why != "" {
		x.fail(r, codePreferenceRefused, why)
		return
	}
	expires, expired, fault := parseExpiry(r.Header[expiryHeader], received)
	if fault != "" {
		x.fail(r, codeExpiryInvalid, fault)
		return
	}
	body, ok := g.readCommand(x, r, a.contract)
	if !ok || !g.checkGuards(x, r, a.guards, requestInput(r, body.document)) {
		return
	}
	c := submission{
		received: received, keyed: keyed, body: body.bytes, fingerprint: fingerprint(a.routeID, a.contract.Type, body.bytes),
		expires: expires, identity: IdentityOf(r.Context()), strict: prefer.strict(),
	}
	switch {
	case a.key != nil:
		key, err := a.key.Say(requestInput(r, body.document))
		if err != nil || key == "" {
			x.fail(r, codeInvalidRequest, "Nothing was started: the request has none of what its business key is made of.")
			return
		}
		c.keyed, c.business = true, true
		// The key belongs to the command, whichever way it comes.
		c.fingerprint = fingerprint("", a.contract.Type, body.bytes)
		c.id = g.mint.derived(c.identity.Tenant, macOfBusinessKey, c.identity.Tenant, a.contract.Type, key).String()
	case keyed:
		c.id = g.mint.derived(c.identity.Tenant, macOfKey, c.identity.Tenant, c.identity.Client, a.method, a.routeID, key).String()
	default:
		c.id = g.mint.fresh(c.identity.Tenant, received).String()
	}
	wait, applied := prefer.within(a.waitDefault, a.waitMax)
	c.until, c.applied = received.Add(wait), applied
	if wait > 0 {
		if c.wait = g.waiters.register(c.id, a.outcome.answersFrom); c.wait == nil {
			if c.strict && prefer.hasWait {
				x.failLater(r, codeOverloaded, "Nothing was started: too many requests wait already, and the handling is to be strict.")
				return
			}
			c.applied = prefer.withHandling("")
		}
		defer c.wait.leave()
	}
	if c.keyed {
		if answered := g.replayKnown(x, r, a, &c); answered {
			return
		}
	}
	if expired { // told last, so that a repeat finds what the first one started in time
		x.fail(r, codeExpired, "Nothing was started: "+expires+" has passed.")
		return
	}
	if ok := g.publish(x, r, a, &c); !ok {
		return
	}
	g.answer(x, r, a, &c, Operation{ID: c.id, Status: StatusAccepted})
}

// replayKnown answers a keyed request whose operation is known already, or
// cannot be looked up. It reports false when there is none yet.
func (g *Gateway) replayKnown(x *exchange, r *http.Request, a *acceptance, c *submission) (answered bool) {
	op, err := g.lookUp(r.Context(), c.id)
	switch {
	case errors.Is(err, ErrNotFound):
		return false
	case err != nil:
		// Publishing now could accept another body under a key that is in use.
		g.failOperations(x, r, err, "This request has started nothing. Try again in a moment.")
	case op.Fingerprint != c.fingerprint:
		g.failReused(x, r, c)
	case c.strict && !op.Status.done():
		g.failUnfinished(x, r, c)
	default:
		x.Header().Set("Idempotency-Replayed", "true")
		g.answer(x, r, a, c, op)
	}
	return true
}

// publish stores the command. When the broker held one with this id already, it
// checks that it was the same request. It reports false after it has answered.
func (g *Gateway) publish(x *exchange, r *http.Request, a *acceptance, c *submission) bool {
	// Not the request's context: a client that goes away does not take its command back.
	ctx := g.acks.context(time.Now())
	message := broker.Message{Topic: a.contract.Topic, PublishID: c.id, Event: newCommandEvent(r.Context(), a, c)}
	if a.outbox {
		return g.storeInOutbox(ctx, x, r, a, c, message)
	}
	receipt, err := g.deps.Publisher.Publish(ctx, message)
	switch {
	case err == nil && receipt.Duplicate && c.keyed:
		return g.checkOriginal(ctx, x, r, a, c, receipt)
	case err == nil:
		return true
	case errors.Is(err, broker.ErrOverloaded):
		x.failLater(r, codeOverloaded, "Nothing was started. Try again in a moment.")
	case errors.Is(err, broker.ErrRejected):
		x.failInternal(r, "publish "+a.contract.Type+" "+c.id, err)
	default: // ErrUnavailable, the timeout, or an error that says less
		g.logger.WarnContext(r.Context(), "command was not confirmed by the broker",
			slog.String("operation_id", c.id), slog.String("command", a.contract.Type), slog.Any("error", err))
		x.failLater(r, codeBrokerUnavailable, unconfirmed(c.keyed))
	}
	return false
}

func unconfirmed(keyed bool) string {
	if keyed {
		return "Whether the command was accepted is unknown. It is safe to repeat the request with the same Idempotency-Key."
	}
	return "Whether the command was accepted is unknown. A repeat may start it twice: " +
		"only a request that was sent with an Idempotency-Key is safe to repeat, with the same key."
}

func newCommandEvent(ctx context.Context, a *acceptance, c *submission) events.Event {
	e := events.Event{
		ID: c.id, Source: eventSource, Type: a.contract.Type, Subject: c.id, Time: c.received.UTC(),
		DataContentType: events.ContentTypeJSON, Data: c.body,
		CorrelationID: c.id, PartitionKey: c.id,
		Extensions: map[string]string{fingerprintExtension: c.fingerprint},
	}
	if c.expires != "" {
		e.Extensions[expiryExtension] = c.expires
	}
	c.identity.mark(&e)
	propagation.TraceContext{}.Inject(ctx, (*eventCarrier)(&e))
	return e
}

// eventCarrier is an event as a place for the trace context.
type eventCarrier events.Event

// Get returns what Set has set.
func (c *eventCarrier) Get(key string) string { return (*events.Event)(c).Extension(key) }

// Set sets traceparent or tracestate.
func (c *eventCarrier) Set(key, value string) { (*events.Event)(c).SetExtension(key, value) }

// Keys returns what the trace context is made of.
func (*eventCarrier) Keys() []string { return propagation.TraceContext{}.Fields() }

// checkOriginal compares the request with the one that first used its key and
// that only the broker knows so far.
func (g *Gateway) checkOriginal(ctx context.Context, x *exchange, r *http.Request, a *acceptance, c *submission, receipt broker.Receipt) bool {
	original, err := g.originalFingerprint(ctx, a, c, receipt)
	if err != nil {
		g.logger.WarnContext(r.Context(), "original of a repeated command cannot be read",
			slog.String("operation_id", c.id), slog.Any("error", err))
		x.failLater(r, codeBrokerUnavailable, unconfirmed(true))
		return false
	}
	return g.repeat(x, r, c, original)
}

// repeat answers for a command that was stored before, by a request with that
// fingerprint, and that the engine does not show yet. It reports whether the request
// was the same one, of which the answer is still to be sent.
func (g *Gateway) repeat(x *exchange, r *http.Request, c *submission, original string) bool {
	switch {
	case original != c.fingerprint:
		g.failReused(x, r, c)
		return false
	case c.strict:
		g.failUnfinished(x, r, c)
		return false
	}
	x.Header().Set("Idempotency-Replayed", "true")
	return true
}

func (g *Gateway) originalFingerprint(ctx context.Context, a *acceptance, c *submission, receipt broker.Receipt) (string, error) {
	delivery, err := g.deps.Lookup(ctx, a.contract.Topic, receipt.Partition, receipt.Offset)
	if errors.Is(err, broker.ErrNotFound) {
		// It has been consumed and deleted, so by now the engine knows it.
		op, err := g.lookUp(ctx, c.id)
		return op.Fingerprint, err
	}
	if err == nil && delivery.Event.ID != c.id {
		return "", fmt.Errorf("position %d of %s holds %s", receipt.Offset, a.contract.Topic, delivery.Event.ID)
	}
	return delivery.Event.Extension(fingerprintExtension), err
}

func (g *Gateway) failReused(x *exchange, r *http.Request, c *submission) {
	p := newProblem(codeIdempotencyKeyReused,
		"The key belongs to an operation that another request started. Use a new key for a new request.")
	if c.business {
		p = newProblem(codeBusinessKeyInUse, "Another request has started an operation for the same business key.")
	}
	p.Instance = operationPath(c.id)
	x.problem(r, p)
}

// failUnfinished tells a client that wants strict handling that its request is
// under way already.
func (g *Gateway) failUnfinished(x *exchange, r *http.Request, c *submission) {
	p := newProblem(codeOperationUnfinished, "The request has been accepted before and its operation is under way.")
	p.Instance = operationPath(c.id)
	x.Header().Set("Retry-After", "1")
	x.problem(r, p)
}

// answer ends a request whose command is stored: at once, or when the operation
// is settled or the wait is over.
func (g *Gateway) answer(x *exchange, r *http.Request, a *acceptance, c *submission, op Operation) {
	h := x.Header()
	h.Set("Vary", "Prefer")
	if c.applied != "" {
		h.Set("Preference-Applied", c.applied)
	}
	status := StatusAccepted
	if c.wait != nil {
		settled := func(op *Operation) bool { return op.Status.settled() }
		op := g.await(r.Context(), c.wait, op, c.until, settled)
		switch {
		case op.Status.done():
			g.writeOutcome(x, r, a, &op)
			return
		case op.Status == StatusStuck:
			status = op.Status
		}
	}
	x.tellDurability(g.durabilityOf(a.outbox))
	writeAccepted(x, c.id, status)
}

// writeAccepted sends the 202.
func writeAccepted(x *exchange, id string, status Status) {
	self := operationPath(id)
	h := x.Header()
	values := []string{self, "1", "<" + self + `>; rel="status", <` + self + `/events>; rel="alternate"; type="text/event-stream"`, noStore}
	h["Location"], h["Retry-After"], h["Link"], h["Cache-Control"] = values[0:1:1], values[1:2:2], values[2:3:3], values[3:4:4]
	// By hand, since this is the busiest answer: id and status hold nothing to escape.
	x.json(http.StatusAccepted, contentTypeJSON,
		[]byte(`{"id":"`+id+`","status":"`+string(status)+`","links":{"self":"`+self+`"}}`+"\n"))
}

// writeOutcome sends the final answer to a request that waited for it.
func (g *Gateway) writeOutcome(x *exchange, r *http.Request, a *acceptance, op *Operation) {
	a.outcome.present(op)
	self := operationPath(op.ID)
	h := x.Header()
	h.Set("Link", "<"+self+`>; rel="status"`)
	if op.Error != nil {
		x.problem(r, op.Error)
		return
	}
	h.Set("Cache-Control", noStore)
	h.Set("Content-Location", self)
	if a.outcome.location != nil {
		location, err := a.outcome.location.expand(op)
		if err != nil {
			g.logger.WarnContext(r.Context(), "outcome has no Location",
				slog.String("route", x.endpoint.id), slog.String("operation_id", op.ID), slog.Any("error", err))
		} else {
			h.Set("Location", location)
		}
	}
	if a.outcome.body != nil {
		body, err := a.outcome.document(op)
		if err == nil {
			h.Del("Content-Location") // what follows is not the operation
			x.json(a.outcome.completedStatus, contentTypeJSON, body)
			return
		}
		// It is done, so the client must not be told of an error.
		g.logger.WarnContext(r.Context(), "body of an outcome cannot be made, so the operation is sent",
			slog.String("route", x.endpoint.id), slog.String("operation_id", op.ID), slog.Any("error", err))
		if op.Partial {
			if whole, err := g.lookUp(r.Context(), op.ID); err == nil {
				a.outcome.present(&whole)
				op = &whole
			}
		}
	}
	g.writeDocument(x, r, a.outcome.completedStatus, op)
}
