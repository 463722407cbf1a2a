package saga

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/telemetry"
)

// transition is one batch on its way into one transaction.
type transition struct {
	engine  *Engine
	now     time.Time
	found   map[uuid.UUID]*stored
	changed map[uuid.UUID]*change
	order   []uuid.UUID      // of changed, so that a batch has one order
	out     []broker.Message // through the outbox
	direct  []broker.Message // from memory, once it has committed
	patient bool             // all goes through the outbox
	claims  []asking
	// Counted and logged once it has committed: a batch may be decided anew.
	verdicts map[Verdict]int
	moves    []move
	refused  error // why the last order was
}

// asking is a claim that a step of a saga has on a lock.
type asking struct {
	saga uuid.UUID
	step string
	claim
}

// move is a change of status.
type move struct {
	from Status
	to   Instance
}

func (e *Engine) newTransition() *transition {
	return &transition{engine: e, changed: make(map[uuid.UUID]*change), verdicts: make(map[Verdict]int)}
}

// deliver decides over one delivery. The error is the reason why it is a dead
// letter.
func (t *transition) deliver(ctx context.Context, id uuid.UUID, d *broker.Delivery) (Verdict, error) {
	if d.Malformed != nil {
		return "", d.Malformed
	}
	event := &d.Event
	saga, known := t.found[id]
	if command, rejected, ok := events.ReplyOf(event); ok {
		if !known {
			return "", fmt.Errorf("%w: reply to %s", errNotFound, command)
		}
		input := &ReplyInput{CommandID: event.CausationID, Data: event.Data}
		if rejected {
			input.Data, input.Rejection = nil, new(events.Rejection)
			err := json.Unmarshal(event.Data, input.Rejection)
			if n := len(input.Rejection.Code); err != nil || n == 0 || n > codeBytesMax {
				return "", fmt.Errorf("rejection of %s has no readable code", command)
			}
		} else if len(event.Data) > 0 && !json.Valid(event.Data) {
			return "", fmt.Errorf("reply to %s is not JSON", command)
		}
		return t.decide(ctx, saga, Input{Reply: input}, event)
	}
	if program, ok := t.engine.starts[event.Type]; ok {
		return t.begin(ctx, id, program, event)
	}
	if started, ok := events.CompensatedType(event.Type); ok && t.engine.starts[started] != nil {
		program := t.engine.starts[started]
		if !known {
			saga = &stored{Instance: Instance{Name: program.Name, Version: program.Version}}
			t.found[id] = saga
		}
		return t.decide(ctx, saga, Input{Recall: &RecallInput{
			ID: id.String(), Parent: event.CorrelationID, ReplyTo: events.Topic(event.ReplyTo), Command: event.ID,
		}}, event)
	}
	correlations := len(t.engine.correlate[event.Type]) > 0
	switch {
	case correlations && !known:
		t.verdicts[Ignored]++ // of somebody else's saga
		return "", nil
	case d.Topic != events.Signals && !correlations:
		return "", fmt.Errorf("no saga starts with %s", event.Type)
	case !known:
		return "", fmt.Errorf("%w: %s", errNotFound, event.Type)
	case event.Type == events.CancelType:
		return t.decide(ctx, saga, Input{Order: &Order{Verb: Cancel, By: event.Source}}, event)
	case len(event.Data) > 0 && !json.Valid(event.Data):
		return "", fmt.Errorf("signal %s is not JSON", event.Type)
	}
	return t.decide(ctx, saga, Input{Signal: &SignalInput{ID: event.ID, Type: event.Type, Data: event.Data}}, event)
}

// begin starts a saga, unless it has been started before.
func (t *transition) begin(ctx context.Context, id uuid.UUID, program *Program, event *events.Event) (Verdict, error) {
	saga, exists := t.found[id]
	if exists && event.Extension("fingerprint") != saga.Fingerprint && saga.Failure == nil {
		t.engine.config.Logger.WarnContext(ctx, "start command differs from the one that began the saga", "saga_id", id, "event_id", event.ID)
	}
	if exists && saga.ReplyTo == "" {
		t.verdicts[Ignored]++
		return "", nil // its row exists, so there is no doubt
	}
	if !exists {
		saga = &stored{Instance: Instance{Name: program.Name, Version: program.Version}}
		t.found[id] = saga
	}
	input := &StartInput{
		ID: id.String(), Request: event.Data, Fingerprint: event.Extension("fingerprint"), At: event.Time,
		Tenant: event.Extension(events.TenantExtension),
	}
	if text := event.Extension(events.ExpiryExtension); text != "" {
		expires, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return "", fmt.Errorf("expirytime of %s is no RFC 3339 time", event.Type)
		}
		input.Expires = expires
	}
	if event.ReplyTo != "" {
		input.Parent, input.ReplyTo = event.CorrelationID, events.Topic(event.ReplyTo)
	}
	return t.decide(ctx, saga, Input{Start: input}, event)
}

// codeBytesMax bounds the code of a rejection, which goes into the outcome.
const codeBytesMax = 100

// errNotFound means that a saga does not exist, or not yet.
var errNotFound = errors.New("there is no such saga")

// decide runs the pure part and takes in what it wants. cause is nil for a tick
// and for what no event has caused.
func (t *transition) decide(ctx context.Context, saga *stored, input Input, cause *events.Event) (Verdict, error) {
	e := t.engine
	program, taken, err := e.program(saga)
	if err != nil {
		return "", err
	}
	if cause == nil {
		cause = &events.Event{TraceParent: saga.TraceParent, TraceState: saga.TraceState, Type: "timer", CorrelationID: saga.ID}
	}
	_, span := telemetry.StartConsume(ctx, e.config.Tracer, ConsumerName, cause)
	defer span.End()
	from := saga.Status
	if taken != nil {
		if err := t.keep(saga, program, *taken, Cause{Kind: "takeover"}); err != nil {
			return "", err
		}
	}
	next, effects, verdict, refused := program.decide(saga.Instance, input, t.now)
	t.verdicts[verdict]++
	if refused != nil {
		t.refused = refused
	}
	var traced events.Event
	telemetry.Inject(trace.ContextWithSpan(ctx, span), &traced)
	if traced.TraceParent == "" {
		traced.TraceParent, traced.TraceState = cause.TraceParent, cause.TraceState
	}
	for i := range effects {
		if want := effects[i].claim; want != nil {
			t.claims = append(t.claims, asking{uuid.MustParse(next.ID), effects[i].Step, *want})
			continue
		}
		message, err := effectMessage(&next, &effects[i], cause, &traced, t.now)
		if err != nil {
			return "", err
		}
		t.send(message)
	}
	if verdict == Ignored {
		return verdict, nil
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.String("countermand.saga.name", next.Name), attribute.String("countermand.saga.status", string(next.Status)))
	}
	if saga.Status == "" {
		next.TraceParent, next.TraceState = traced.TraceParent, traced.TraceState
	}
	if next.Status != from && (next.Status.Final() || next.Status == Stuck) {
		message, err := outcomeMessage(&next, cause, &traced, t.now)
		if err != nil {
			return "", err
		}
		t.out = append(t.out, message)
	}
	if next.Status != from {
		t.moves = append(t.moves, move{from, next})
	}
	return verdict, t.keep(saga, program, next, causeOf(input, cause))
}

// send queues a command or an answer.
func (t *transition) send(message broker.Message) {
	if t.engine.config.Commands == nil || t.patient || outbox.Check(&message) != nil { // the outbox says what is wrong with it
		t.out = append(t.out, message)
		return
	}
	t.direct = append(t.direct, message)
}

// dispatch sends what goes out from memory.
func (t *transition) dispatch() {
	if len(t.direct) > 0 {
		t.engine.config.Commands.Send(t.direct...)
	}
}

// queueClaims adds the locks that steps ask for.
func (t *transition) queueClaims(batch *pgx.Batch) {
	for _, a := range t.claims {
		batch.Queue(`
			insert into saga_lock (key, saga_id, step, slots, rate, ttl) values ($1, $2, $3, $4, $5, $6)
			on conflict do nothing`, a.key, [16]byte(a.saga), a.step, a.slots, a.rate, pgtype.Interval{Microseconds: a.ttl.Microseconds(), Valid: a.ttl > 0})
	}
}

// causeOf returns what the history says about an input.
func causeOf(input Input, event *events.Event) Cause {
	switch {
	case input.Start != nil:
		return Cause{Kind: "start"} // by the event of the saga's id
	case input.Reply != nil:
		return Cause{Kind: "reply"} // whose id derives from its command's
	case input.Signal != nil:
		return Cause{Kind: "signal", Event: event.ID, Order: input.Signal.Order}
	case input.Recall != nil:
		return Cause{Kind: "recall", Event: event.ID}
	case input.Local != nil:
		return Cause{Kind: "local"}
	case input.Lock != nil:
		return Cause{Kind: "lock"}
	case input.Order != nil:
		return Cause{Kind: "order", Event: event.ID, Order: input.Order}
	}
	return Cause{Kind: "timer"}
}

// keep adds a transition of a saga to what is written.
func (t *transition) keep(saga *stored, program *Program, next Instance, cause Cause) error {
	id, err := uuid.Parse(next.ID)
	if err != nil {
		return fmt.Errorf("saga id %q: %w", next.ID, err)
	}
	c, ok := t.changed[id]
	if !ok {
		c = &change{id: id, before: *saga, after: *saga}
		if saga.revision == 0 {
			c.after.Instance = Instance{}
		}
		if program.attributes != nil && saga.revision > 0 {
			c.known = program.find(&saga.Instance)
		}
		c.locks, c.patience = program.locks, program.patience
		t.changed[id] = c
		t.order = append(t.order, id)
	}
	if err := c.append(next, cause, t.now); err != nil {
		return err
	}
	if program.attributes != nil {
		c.attributes = program.find(&next)
	}
	saga.Instance = next
	return nil
}

// report counts and logs what has committed.
func (t *transition) report(ctx context.Context) {
	e := t.engine
	for verdict, n := range t.verdicts {
		e.metrics.inputs.WithLabelValues(string(verdict)).Add(float64(n))
	}
	for i := range t.moves {
		in := &t.moves[i].to
		e.metrics.transitions.WithLabelValues(in.Name, string(in.Status)).Inc()
		level, attributes := slog.LevelDebug, []any{"saga_id", in.ID, "saga", in.Name, "version", in.Version, "from", t.moves[i].from, "status", in.Status}
		if in.Failure != nil {
			attributes = append(attributes, "step", in.Failure.Step, "code", in.Failure.Code)
		}
		if in.Status == Stuck {
			level = slog.LevelError
			attributes = append(attributes, "trouble", in.Trouble.Message)
		}
		e.config.Logger.Log(ctx, level, "saga changed status", attributes...)
		if in.Status.Final() {
			e.metrics.seconds.WithLabelValues(in.Name).Observe(t.now.Sub(in.CreatedAt).Seconds())
		}
	}
}

// commit writes everything in one round trip, which is one transaction.
func (t *transition) commit(ctx context.Context, out *pgx.Batch) error {
	return t.write(ctx, out, func(batch *pgx.Batch) error { return t.engine.pool.SendBatch(ctx, batch).Close() })
}

// write queues what has been decided and sends it; the cache follows.
func (t *transition) write(ctx context.Context, out *pgx.Batch, send func(*pgx.Batch) error) error {
	changes := make([]change, len(t.order))
	for i, id := range t.order {
		changes[i] = *t.changed[id]
	}
	slices.SortFunc(changes, func(a, b change) int { return bytes.Compare(a.id[:], b.id[:]) })
	queueChanges(out, changes)
	t.queueClaims(out)
	if err := outbox.Queue(out, t.out...); err != nil {
		return err
	}
	if out.Len() == 0 {
		t.dispatch() // an answer that was asked for again
		return nil
	}
	if err := send(out); err != nil {
		t.engine.cache.forget(t.order)
		// Without an answer it may have committed, and with a fatal one as well: a
		// server that stops may do so between the commit and its confirmation.
		if answer, answered := errors.AsType[*pgconn.PgError](err); !answered || answer.SeverityUnlocalized != "ERROR" {
			return fmt.Errorf("commit sagas: %w: %w", postgres.ErrCommitUnknown, err)
		}
		return fmt.Errorf("commit sagas: %w", err)
	}
	if len(t.out) > 0 {
		t.engine.config.Wake()
	}
	t.dispatch()
	t.report(ctx)
	freed := len(t.claims) > 0
	for i := range changes {
		freed = freed || changes[i].locks && changes[i].after.Status.Final()
		t.engine.cache.put(changes[i].id, &changes[i].after)
		t.engine.hint(changes[i].after.Due())
	}
	if freed {
		t.engine.hint(time.Now()) // the timer loop gives locks away
	}
	return nil
}
