package saga

import (
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
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/telemetry"
)

// ConsumerName is the name of the engine's consumer: it owns the positions.
const ConsumerName = "saga-engine"

// EngineConfig of an [Engine]. The zero value of a field is its default.
type EngineConfig struct {
	// Wake is called after each commit that wrote to the outbox, to wake the
	// relay; nil: nobody.
	Wake func()
	// Commands sends commands when their transaction has committed, such as a
	// [broker.Dispatcher] does, from memory: a command that is lost is issued again
	// by the timer of its step. Nil: commands go through the outbox, which costs a
	// row and a hop each. Outcomes always go through the outbox.
	Commands consumer.Sender
	// Poll is how often the engine looks for due timers when it knows of none: 1 s
	// by default. It bounds how late another engine's timers fire after its death.
	Poll    time.Duration
	Tracer  trace.Tracer // nil: the global provider's
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept but not registered
}

// Engine advances the sagas of its definitions. It is the [consumer.Processor]
// of the feed that reads start commands and replies, and fires timers beside it.
// Run as many engines on one database as you like.
type Engine struct {
	pool     *pgxpool.Pool
	config   EngineConfig
	programs map[programKey]*Program
	starts   map[string]*Program // newest version by start type
	armed    chan time.Time      // capacity 1: the earliest timer set lately
	cache    *cache
	clock    clock
	metrics  engineMetrics
}

type programKey struct {
	name    string
	version int
}

// NewEngine compiles the definitions. The error joins every violation of all of
// them. Several versions of one name may be given; new sagas begin with the
// newest.
func NewEngine(pool *pgxpool.Pool, config EngineConfig, definitions ...Compiler) (*Engine, error) {
	if config.Wake == nil {
		config.Wake = func() {}
	}
	if config.Poll == 0 {
		config.Poll = time.Second
	}
	if config.Tracer == nil {
		config.Tracer = otel.Tracer("github.com/countermand/countermand/platform/saga")
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	e := &Engine{
		pool: pool, config: config, armed: make(chan time.Time, 1),
		programs: make(map[programKey]*Program), starts: make(map[string]*Program), cache: newCache(cacheMax), metrics: newEngineMetrics(),
	}
	if config.Metrics != nil {
		e.metrics.register(config.Metrics)
	}
	var errs []error
	for _, definition := range definitions {
		p, err := definition.Compile()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		key := programKey{p.Name, p.Version}
		if _, twice := e.programs[key]; twice {
			errs = append(errs, fmt.Errorf("saga %q version %d is defined twice", p.Name, p.Version))
		}
		e.programs[key] = p
		newest, ok := e.starts[p.StartType]
		if ok && newest.Name != p.Name {
			errs = append(errs, fmt.Errorf("sagas %q and %q both start with %s", newest.Name, p.Name, p.StartType))
		}
		if !ok || newest.Version < p.Version {
			e.starts[p.StartType] = p
		}
	}
	return e, errors.Join(errs...)
}

// Topics returns what the feed must read: where start commands arrive, and
// replies.
func (e *Engine) Topics() []events.Topic {
	topics := []events.Topic{events.Replies}
	for _, p := range e.starts {
		if !slices.Contains(topics, p.Topic) {
			topics = append(topics, p.Topic)
		}
	}
	return topics
}

// Check refuses to start when a saga that has not ended needs a definition that
// this engine does not have, or has with other steps.
func (e *Engine) Check(ctx context.Context) error {
	// All sagas of a version have the steps of the code that began them, so the
	// oldest and the newest tell whether that code was this one.
	rows, err := e.pool.Query(ctx, `
		select g.definition, g.version, g.live, oldest.document, newest.document
		from (
			select definition, version, count(*) as live from saga
			where status in ('running', 'compensating', 'stuck') group by definition, version
		) as g
		cross join lateral (
			select document from saga as s
			where s.status in ('running', 'compensating', 'stuck') and s.definition = g.definition and s.version = g.version
			order by created_at limit 1
		) as oldest
		cross join lateral (
			select document from saga as s
			where s.status in ('running', 'compensating', 'stuck') and s.definition = g.definition and s.version = g.version
			order by created_at desc limit 1
		) as newest`)
	if err != nil {
		return fmt.Errorf("check live sagas: %w", err)
	}
	var (
		key            programKey
		live           int
		oldest, newest []byte
		errs           []error
	)
	_, err = pgx.ForEachRow(rows, []any{&key.name, &key.version, &live, &oldest, &newest}, func() error {
		program, ok := e.programs[key]
		if !ok {
			errs = append(errs, fmt.Errorf("%d sagas run %s version %d, which this engine does not have: keep that definition until they have ended",
				live, key.name, key.version))
			return nil
		}
		for _, document := range [][]byte{oldest, newest} {
			var in Instance
			if err := json.Unmarshal(document, &in); err != nil {
				continue // a single one, which is left alone when its turn comes
			}
			if !program.fits(&in) {
				errs = append(errs, fmt.Errorf("%d sagas run %s version %d, and saga %s has other steps than this engine's: "+
					"give the changed definition a new version and keep the old one until they have ended", live, key.name, key.version, in.ID))
				break
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("check live sagas: %w", err)
	}
	return errors.Join(errs...)
}

// attemptsMax bounds how often one batch is decided anew because another engine
// was faster, which happens only while partitions change hands, and how often an
// event is tried before it becomes a dead letter.
const attemptsMax = 10

// Process implements [consumer.Processor].
func (e *Engine) Process(ctx context.Context, batch *consumer.Batch) error {
	var err error
	for attempt := range attemptsMax {
		batch.Restart()
		// A start command almost always begins a new saga, so it is not looked up
		// at first: the primary key tells when there is one.
		switch err = e.process(ctx, batch, attempt == 0); {
		case errors.Is(err, errDoubt): // the cache is right about them the next time
		case isConflict(err):
			e.metrics.conflicts.Inc()
		default:
			return err
		}
	}
	return err
}

// errDoubt means that the cache alone said that a reply is not awaited.
var errDoubt = errors.New("a reply was ignored on the word of the cache")

func (e *Engine) process(ctx context.Context, batch *consumer.Batch, trustStarts bool) error {
	t := e.newTransition()
	ids := make([]uuid.UUID, len(batch.Deliveries))
	read := make([]uuid.UUID, 0, len(batch.Deliveries))
	for i := range batch.Deliveries {
		event := &batch.Deliveries[i].Event
		_, starts := e.starts[event.Type]
		ids[i] = sagaID(event, starts)
		if !starts || !trustStarts {
			read = append(read, ids[i])
		}
	}
	var err error
	if t.found, t.now, err = e.load(ctx, read); err != nil {
		return err
	}
	ignored := make(map[uuid.UUID]bool)
	var out pgx.Batch
	for i := range batch.Deliveries {
		if batch.Skip(i) {
			continue
		}
		d := &batch.Deliveries[i]
		number, reason := batch.Attempt(i)
		var verdict Verdict
		if number <= attemptsMax {
			verdict, reason = t.deliver(ctx, ids[i], d)
		}
		if verdict == Ignored && t.found[ids[i]].cached {
			ignored[ids[i]] = true
		}
		if errors.Is(reason, errForeign) && number < attemptsMax {
			batch.Fail(i, reason) // while a new version is rolled out, another engine will have it soon
			continue
		}
		if reason != nil {
			consumer.QueueDeadLetter(&out, ConsumerName, d, min(number, attemptsMax), reason)
			t.verdicts["dead"]++
			e.config.Logger.ErrorContext(ctx, "event became a dead letter", "consumer", ConsumerName, "topic", d.Topic,
				"offset", d.Offset, "event_id", d.Event.ID, "event_type", d.Event.Type, "saga_id", d.Event.CorrelationID, "error", reason)
		}
		batch.Done(i)
	}
	if e.cache.doubt(ignored, t.changed) {
		return errDoubt
	}
	batch.QueuePositions(&out)
	return t.commit(ctx, &out)
}

// sagaID returns the saga that an event belongs to: the one that it begins,
// whatever else it correlates with, or the one it correlates with.
func sagaID(event *events.Event, starts bool) uuid.UUID {
	id := event.CorrelationID
	if starts {
		id = event.ID
	}
	if parsed, err := uuid.Parse(id); err == nil {
		return parsed
	}
	return events.DeriveUUID(event.Source, event.ID)
}

// transition is one batch on its way into one transaction.
type transition struct {
	engine  *Engine
	now     time.Time
	found   map[uuid.UUID]*stored
	changed map[uuid.UUID]*change
	order   []uuid.UUID      // of changed, so that a batch has one order
	out     []broker.Message // through the outbox
	direct  []broker.Message // from memory, once it has committed
	// Counted and logged once it has committed: a batch may be decided anew.
	verdicts map[Verdict]int
	moves    []move
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
	if command, rejected, ok := events.ReplyOf(event); ok {
		saga, known := t.found[id]
		if !known {
			return "", fmt.Errorf("reply to %s for a saga that does not exist", command)
		}
		input := &ReplyInput{CommandID: event.CausationID, Data: event.Data}
		if rejected {
			input.Data, input.Rejection = nil, new(events.Rejection)
			err := json.Unmarshal(event.Data, input.Rejection)
			if n := len(input.Rejection.Code); err != nil || n == 0 || n > codeBytesMax {
				return "", fmt.Errorf("rejection of %s has no readable code", command)
			}
		} else if len(event.Data) > 0 && !json.Valid(event.Data) {
			return "", fmt.Errorf("reply to %s is not JSON", command) // it could not be stored in the saga's document
		}
		return t.decide(ctx, saga, Input{Reply: input}, event)
	}
	program, ok := t.engine.starts[event.Type]
	if !ok {
		return "", fmt.Errorf("no saga starts with %s", event.Type)
	}
	if saga, exists := t.found[id]; exists {
		t.verdicts[Ignored]++
		if fingerprint := event.Extension("fingerprint"); fingerprint != saga.Fingerprint {
			t.engine.config.Logger.WarnContext(ctx, "start command differs from the one that began the saga",
				"saga_id", id, "event_id", event.ID)
		}
		return "", nil // its row exists, so there is no doubt
	}
	saga := &stored{Instance: Instance{Name: program.Name, Version: program.Version}}
	t.found[id] = saga
	return t.decide(ctx, saga, Input{Start: &StartInput{
		ID: id.String(), Request: event.Data, Fingerprint: event.Extension("fingerprint"), At: event.Time,
	}}, event)
}

// codeBytesMax bounds the code of a rejection, which goes into the outcome.
const codeBytesMax = 100

// errForeign means that a saga cannot be advanced by this engine, but perhaps by
// another one.
var errForeign = errors.New("this engine cannot advance the saga")

// program returns the definition that a saga is to be advanced with.
func (e *Engine) program(saga *stored) (*Program, error) {
	if saga.unreadable != nil {
		return nil, fmt.Errorf("%w: %w", errForeign, saga.unreadable)
	}
	program, ok := e.programs[programKey{saga.Name, saga.Version}]
	if !ok {
		return nil, fmt.Errorf("%w: it has no definition of %s version %d", errForeign, saga.Name, saga.Version)
	}
	if !program.fits(&saga.Instance) {
		return nil, fmt.Errorf("%w: it began with other steps of %s version %d: a changed definition needs another version",
			errForeign, saga.Name, saga.Version)
	}
	return program, nil
}

// decide runs the pure part and takes in what it wants. cause is nil for a tick.
func (t *transition) decide(ctx context.Context, saga *stored, input Input, cause *events.Event) (Verdict, error) {
	e := t.engine
	program, err := e.program(saga)
	if err != nil {
		return "", err
	}
	if cause == nil {
		cause = &events.Event{TraceParent: saga.TraceParent, TraceState: saga.TraceState, Type: "timer", CorrelationID: saga.ID}
	}
	_, span := telemetry.StartConsume(ctx, e.config.Tracer, ConsumerName, cause)
	defer span.End()
	before, armed := saga.revision, saga.Armed
	next, effects, verdict := program.Decide(saga.Instance, input, t.now)
	t.verdicts[verdict]++
	if verdict == Ignored {
		return verdict, nil
	}
	id := uuid.MustParse(next.ID)
	if span.IsRecording() {
		span.SetAttributes(attribute.String("countermand.saga.name", next.Name), attribute.String("countermand.saga.status", string(next.Status)))
	}
	var traced events.Event
	telemetry.Inject(trace.ContextWithSpan(ctx, span), &traced)
	if traced.TraceParent == "" {
		traced.TraceParent, traced.TraceState = cause.TraceParent, cause.TraceState
	}
	next.TraceParent, next.TraceState = traced.TraceParent, traced.TraceState
	for i := range effects {
		t.send(commandMessage(&next, &effects[i], cause, t.now))
	}
	if next.Status != saga.Status && (next.Status.Final() || next.Status == Stuck) {
		message, err := outcomeMessage(&next, cause, t.now)
		if err != nil {
			return "", err
		}
		t.out = append(t.out, message)
	}
	if next.Status != saga.Status {
		t.moves = append(t.moves, move{saga.Status, next})
	}
	saga.Instance = next
	if _, known := t.changed[id]; !known {
		t.changed[id] = &change{id: id, before: before, armed: armed}
		t.order = append(t.order, id)
	}
	t.changed[id].instance = next
	return verdict, nil
}

// send queues a command.
func (t *transition) send(command broker.Message) {
	if t.engine.config.Commands == nil || outbox.Check(&command) != nil { // the outbox says what is wrong with it
		t.out = append(t.out, command)
		return
	}
	t.direct = append(t.direct, command)
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
	changes := make([]change, len(t.order))
	for i, id := range t.order {
		changes[i] = *t.changed[id]
	}
	if err := queueChanges(out, changes); err != nil {
		return err
	}
	if err := outbox.Queue(out, t.out...); err != nil {
		return err
	}
	if out.Len() == 0 {
		return nil
	}
	if err := t.engine.pool.SendBatch(ctx, out).Close(); err != nil {
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
	if len(t.direct) > 0 {
		t.engine.config.Commands.Send(t.direct...)
	}
	t.report(ctx)
	for i := range changes {
		t.engine.cache.put(changes[i].id, &stored{Instance: changes[i].instance, revision: changes[i].before + 1})
		t.engine.hint(changes[i].instance.due())
	}
	return nil
}
