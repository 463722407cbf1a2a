package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

// Command is what schedules may send.
type Command struct {
	Type  string
	Topic events.Topic
	// Saga says that it starts one, whose end can be waited for.
	Saga bool
}

// Sends lets schedules send that command to a participant. Nobody gets the reply.
func Sends(contract events.Contract) Command {
	d := contract.Describe()
	return Command{Type: d.Type, Topic: d.Topic}
}

// Starts lets schedules start the saga that begins with that command.
func Starts(contract events.Contract) Command {
	c := Sends(contract)
	c.Saga = true
	return c
}

// Config of a [Scheduler]. The zero value of a field is its default.
type Config struct {
	// Commands are what schedules may send; any other is refused, since nobody
	// would hear it.
	Commands []Command
	// Ended tells of sagas by id whether they have ended. Those that do not exist,
	// yet or any more, are left out. Nil: overlap policies other than [AllowAll]
	// are refused.
	Ended func(ctx context.Context, ids []string) (map[string]bool, error)
	// Wake is called after each commit that wrote to the outbox, to wake its relay;
	// nil: nobody.
	Wake func()
	// Poll is how often the database is asked what is due, and how often a saga that
	// something waits for is asked whether it has ended: every second by default.
	Poll    time.Duration
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept but not registered
}

// Scheduler fires the schedules of one database and is how operators change
// them. Its methods may be called concurrently.
type Scheduler struct {
	pool      *pgxpool.Pool
	config    Config
	commands  map[string]Command
	changed   chan struct{} // capacity 1: a change while Run is busy is not lost
	firings   *prometheus.CounterVec
	delay     prometheus.Histogram
	conflicts prometheus.Counter
}

// New returns a scheduler on the database of pool, which has the tables of
// [Migrations] and those of the outbox. It fails when two commands have one type.
func New(pool *pgxpool.Pool, config Config) (*Scheduler, error) {
	if config.Wake == nil {
		config.Wake = func() {}
	}
	if config.Poll == 0 {
		config.Poll = time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	s := &Scheduler{
		pool: pool, config: config, commands: make(map[string]Command), changed: make(chan struct{}, 1),
		firings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_schedule_firings_total",
			Help: "Firings of schedules by what became of them.",
		}, []string{"outcome"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "countermand_schedule_delay_seconds",
			Help:    "How long after it was due a firing was decided.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10), // 10 ms to 44 min
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countermand_schedule_conflicts_total",
			Help: "Decisions given up because somebody else had changed the schedule meanwhile.",
		}),
	}
	for _, c := range config.Commands {
		if _, twice := s.commands[c.Type]; twice {
			return nil, fmt.Errorf("commands of the scheduler: %s is there twice", c.Type)
		}
		s.commands[c.Type] = c
	}
	if config.Metrics != nil {
		config.Metrics.MustRegister(s.firings, s.delay, s.conflicts)
	}
	return s, nil
}

// dueMax is how many schedules one transaction advances.
const dueMax = 64

// failedRest is how long a schedule rests that cannot be advanced by this
// process, such as one whose command it does not know.
const failedRest = 30 * time.Second

// Run fires schedules until ctx ends, and returns nil then. It survives a
// database that is away.
func (s *Scheduler) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		// Cancelling a query costs the connection; between passes is soon enough.
		rest, err := s.once(context.WithoutCancel(ctx))
		if err != nil {
			failures++
			rest = min(30*time.Second, time.Second<<min(failures, 5))
			s.config.Logger.WarnContext(ctx, "schedules could not be advanced", "retry_in", rest, "error", err)
		} else {
			failures = 0
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-s.changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// wake tells Run that a schedule was changed by this process.
func (s *Scheduler) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// once advances what is due, and returns how long there is nothing to do.
func (s *Scheduler) once(ctx context.Context) (rest time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	records, now, rest, err := s.readDue(ctx)
	if err != nil || len(records) == 0 {
		return min(rest, s.config.Poll), err
	}
	known, err := s.ended(ctx, records...)
	if err != nil {
		return 0, err
	}
	fired, err := s.fired(ctx, records)
	if err != nil {
		return 0, err
	}
	passes := make([]*pass, 0, len(records))
	for _, r := range records {
		p, err := s.decide(r, now, known, fired)
		if err != nil {
			s.config.Logger.ErrorContext(ctx, "schedule cannot be advanced by this process", "schedule", r.ID, "retry_in", failedRest, "error", err)
			if err := s.putOff(ctx, r); err != nil {
				return 0, err
			}
			continue
		}
		passes = append(passes, p)
	}
	if _, err := s.commit(ctx, passes); err != nil {
		return 0, err
	}
	return 0, nil // there may be more
}

func (s *Scheduler) decide(r *Record, now time.Time, known, fired map[string]bool) (*pass, error) {
	if r.unreadable != nil {
		return nil, r.unreadable
	}
	times, err := r.compile()
	if err != nil {
		return nil, err
	}
	if err := s.check(&r.Schedule); err != nil {
		return nil, err
	}
	return advance(r, times, now, known, fired), nil
}

// check refuses what this process cannot send or wait for.
func (s *Scheduler) check(of *Schedule) error {
	command, ok := s.commands[of.Do.Command]
	switch {
	case !ok:
		var types []string
		for _, c := range s.config.Commands {
			types = append(types, c.Type)
		}
		slices.Sort(types)
		return fmt.Errorf("%w: do.command %q is none that schedules may send; there is %q", ErrInvalid, of.Do.Command, types)
	case of.Overlap != AllowAll && (!command.Saga || s.config.Ended == nil):
		return fmt.Errorf("%w: overlap %q needs to know when a saga has ended, and %s starts none; use allow_all", ErrInvalid, of.Overlap, of.Do.Command)
	}
	return nil
}

// ended asks for the running sagas of all records.
func (s *Scheduler) ended(ctx context.Context, records ...*Record) (map[string]bool, error) {
	var ids []string
	for _, r := range records {
		for _, running := range r.State.Running {
			ids = append(ids, running.ID)
		}
	}
	if len(ids) == 0 || s.config.Ended == nil {
		return nil, nil
	}
	known, err := s.config.Ended(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("ask for the end of sagas: %w", err)
	}
	return known, nil
}

// commit writes decisions and sends their commands, in one transaction. Decisions
// about schedules that somebody else has changed since they were read come to
// nothing; the others, which it returns, stand.
func (s *Scheduler) commit(ctx context.Context, passes []*pass) (won map[string]bool, err error) {
	if len(passes) == 0 {
		return nil, nil
	}
	sent := 0
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		if won, err = s.write(ctx, tx, passes); err != nil {
			return err
		}
		fresh, err := record(ctx, tx, passes, won)
		if err != nil {
			return err
		}
		var messages []broker.Message
		for _, p := range passes {
			for i := range p.firings {
				if f := &p.firings[i]; f.Outcome == Started && fresh[f.ID] {
					m, err := s.message(p, f)
					if err != nil {
						return err
					}
					messages = append(messages, m)
				}
			}
		}
		sent = len(messages)
		return outbox.Write(ctx, tx, messages...)
	})
	if err != nil {
		return nil, err
	}
	if sent > 0 {
		s.config.Wake()
	}
	for _, p := range passes {
		if !won[p.ID] {
			s.conflicts.Inc()
			continue
		}
		for _, delay := range p.delays {
			s.delay.Observe(delay.Seconds())
		}
		for i := range p.firings {
			f := &p.firings[i]
			s.firings.WithLabelValues(string(f.Outcome)).Add(float64(f.Count))
			level := slog.LevelDebug
			if f.Outcome == Missed {
				level = slog.LevelWarn
			}
			s.config.Logger.Log(ctx, level, "schedule fired", "schedule", p.ID, "at", f.At, "kind", f.Kind, "outcome", f.Outcome,
				"count", f.Count, "command_id", f.ID)
		}
	}
	return won, nil
}

// Extensions of the commands that schedules send.
const (
	scheduleExtension = "schedule"
	timeExtension     = "scheduledtime"
)

// message is the command of a firing.
func (s *Scheduler) message(p *pass, f *Firing) (broker.Message, error) {
	data, err := p.Do.data(f.At)
	if err != nil {
		return broker.Message{}, fmt.Errorf("schedule %s: %w", p.ID, err)
	}
	e := events.Event{
		ID: f.ID, Source: "/schedules/" + p.ID, Type: p.Do.Command, Subject: f.ID, Time: f.DecidedAt, Data: data,
		CorrelationID: f.ID, PartitionKey: f.ID,
		Extensions: map[string]string{scheduleExtension: p.ID, timeExtension: f.At.UTC().Format(time.RFC3339Nano)},
	}
	if len(data) > 0 {
		e.DataContentType = events.ContentTypeJSON
	}
	return broker.Message{Topic: s.commands[p.Do.Command].Topic, PublishID: f.ID, Event: e}, nil
}
