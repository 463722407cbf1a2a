package saga

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
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
	// Check is asked about every reply, signal and start that the engine would take in,
	// such as payload.Validator.Check about its payload. What it finds wrong becomes a
	// dead letter at once, with its error as the reason, and the saga does not see it:
	// its step goes on waiting, and is repeated as if no reply had come. Nil: the
	// definition's functions judge by themselves.
	Check func(e *events.Event) error
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
	// correlate finds the sagas that a fact belongs to which others publish.
	correlate map[string][]correlation
	armed     chan time.Time // capacity 1: the earliest timer set lately
	cache     *cache
	clock     clock
	locals    locals
	locks     bool // some definition has them
	metrics   engineMetrics
}

// correlation is one await's way from a fact to its saga.
type correlation struct {
	topic events.Topic
	saga  func(payload []byte) (string, error)
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
		programs: make(map[programKey]*Program), starts: make(map[string]*Program), correlate: make(map[string][]correlation), cache: newCache(cacheMax), metrics: newEngineMetrics(),
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
		e.locks = e.locks || p.locks
		for _, n := range p.order {
			if n.kind == kindAwait && n.correlate != nil {
				e.correlate[n.do.Type] = append(e.correlate[n.do.Type], correlation{n.do.Topic, n.correlate})
			}
		}
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

// Topics returns what the feed must read: where start commands arrive, replies,
// signals, and the facts that sagas await.
func (e *Engine) Topics() []events.Topic {
	topics := []events.Topic{events.Replies, events.Signals}
	add := func(topic events.Topic) {
		if !slices.Contains(topics, topic) {
			topics = append(topics, topic)
		}
	}
	for _, start := range sortedKeys(e.starts) {
		add(e.starts[start].Topic)
	}
	for _, fact := range sortedKeys(e.correlate) {
		for _, c := range e.correlate[fact] {
			add(c.topic)
		}
	}
	return topics
}

// Programs returns the engine's definitions, by name and version.
func (e *Engine) Programs() []*Program {
	return slices.SortedFunc(maps.Values(e.programs), func(a, b *Program) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
}

// partitionsAhead is for how many days to come the engine makes partitions, so
// that it need not be running at midnight.
const partitionsAhead = 7

// Prepare makes the engine ready to run: it makes the partitions of the days to
// come and tells the database the shape of each definition.
func (e *Engine) Prepare(ctx context.Context) error {
	if _, err := e.pool.Exec(ctx, "select saga_partitions($1)", partitionsAhead); err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	for _, p := range e.Programs() {
		graph, err := json.Marshal(p.Graph())
		if err != nil {
			return fmt.Errorf("encode graph of %s: %w", p.Name, err)
		}
		_, err = e.pool.Exec(ctx, `
			insert into saga_definition (name, version, graph) values ($1, $2, $3)
			on conflict (name, version) do update set graph = excluded.graph, seen_at = clock_timestamp()`, p.Name, p.Version, graph)
		if err != nil {
			return fmt.Errorf("store definition %s: %w", p.Name, err)
		}
	}
	return nil
}

// Check refuses to start when a saga that has not ended needs a definition that
// this engine does not have, or has with other steps.
func (e *Engine) Check(ctx context.Context) error {
	problems, err := e.Compare(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, 0, len(problems))
	for _, p := range problems {
		errs = append(errs, errors.New(p.Message))
	}
	return errors.Join(errs...)
}

// Misfit is a definition that running sagas need and that an engine does not have
// as they need it.
type Misfit struct {
	Definition string `json:"definition"`
	Version    int    `json:"version"`
	// Sagas is how many need it, Example the id of one of them.
	Sagas   int    `json:"sagas"`
	Example string `json:"example"`
	Message string `json:"message"`
}

// Compare compares the definitions with the sagas that have not ended: none of
// what it returns may be deployed as it is.
func (e *Engine) Compare(ctx context.Context) ([]Misfit, error) {
	// All sagas of a version have the steps of the code that began them, so the
	// oldest and the newest tell whether that code was this one.
	rows, err := e.pool.Query(ctx, `
		with g as (
			select s.definition, s.version, count(*) as live,
				(array_agg(s.id order by s.created_at))[1] as oldest, (array_agg(s.id order by s.created_at desc))[1] as newest
			from saga_live as l join saga as s on s.id = l.saga_id
			group by s.definition, s.version
		)
		select g.definition, g.version, g.live, d.graph, `+columnsOf+`
		from g join saga as s on s.id in (g.oldest, g.newest)
		left join saga_live as l on l.saga_id = s.id
		left join saga_definition as d on d.name = g.definition and d.version = g.version
		order by g.definition, g.version, s.created_at, s.id`)
	if err != nil {
		return nil, fmt.Errorf("compare live sagas: %w", err)
	}
	var (
		key     programKey
		live    int
		graph   *Graph // nil: no engine has told
		row     scanner
		misfits []Misfit
	)
	_, err = pgx.ForEachRow(rows, append([]any{&key.name, &key.version, &live, &graph}, row.targets()...), func() error {
		if n := len(misfits); n > 0 && misfits[n-1].Definition == key.name && misfits[n-1].Version == key.version {
			return nil // told already
		}
		if message := e.misfit(row.saga(), key, live, graph); message != "" {
			misfits = append(misfits, Misfit{Definition: key.name, Version: key.version, Sagas: live, Example: row.id.String(), Message: message})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare live sagas: %w", err)
	}
	return misfits, nil
}

// misfit tells why a saga of that definition cannot go on here; "" when it can.
func (e *Engine) misfit(saga *stored, key programKey, live int, graph *Graph) string {
	if saga.unreadable != nil {
		return "" // a single one, which is left alone when its turn comes
	}
	program, taken, err := e.program(saga)
	if err == nil && taken == nil && graph != nil && !graph.same(program.Graph()) {
		err = errors.New("its flow was another one")
	}
	switch {
	case program == nil:
		return fmt.Sprintf("%d sagas run %s version %d, which this engine does not have: keep that definition until they have ended, or have a newer one take them over",
			live, key.name, key.version)
	case err != nil:
		return fmt.Sprintf("%d sagas run %s version %d, and saga %s has other steps than this engine's: "+
			"give the changed definition a new version and keep the old one until they have ended, or take them over (%v)", live, key.name, key.version, saga.ID, err)
	}
	return ""
}
