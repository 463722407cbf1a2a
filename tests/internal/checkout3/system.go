package checkout3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// Config of a [System].
type Config struct {
	// Dir is a folder for the data of the servers.
	Dir string
	// AdminURL is the Postgres to use; empty: a private one in Dir.
	AdminURL string
	// Batched lets the participant commit many commands at once. Otherwise each
	// command is a transaction.
	Batched bool
	Logger  *slog.Logger
}

// The databases of the two sides, dropped and made anew by [Start].
const (
	engineDatabase      = "bench_engine"
	participantDatabase = "bench_shop"
)

// workers is how many commands of an unbatched participant can commit at once.
const workers = 16

// conns is how many connections each side may have.
const conns = workers + 4

// System is engine, participant, broker and database, in this process but for
// the database server. Run may be called by many goroutines.
type System struct {
	*Database

	config   Config
	nats     *embedded.NATS
	leave    func() // ends the broker connection
	pools    []*pgxpool.Pool
	starter  *broker.Committer
	outcomes broker.Reader
	stop     context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	waiting map[string]chan events.Event // by saga id
	failed  error
}

// Start starts everything and returns when it can take sagas.
func Start(ctx context.Context, config Config) (_ *System, err error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	s := &System{config: config, waiting: make(map[string]chan events.Event)}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.Database, err = StartDatabase(ctx, config.Dir, config.AdminURL); err != nil {
		return nil, err
	}
	if s.nats, err = embedded.StartNATS(embedded.NATSConfig{StoreDir: filepath.Join(config.Dir, "nats")}); err != nil {
		return nil, err
	}
	conn, err := s.nats.Connect()
	if err != nil {
		return nil, err
	}
	s.leave = conn.Close
	b, err := natsbroker.New(conn, natsbroker.Config{AtomicFrom: 4, Partitions: workers})
	if err != nil {
		return nil, err
	}
	if err := b.Ensure(ctx, begin.Topic(), reserve.Topic(), events.Replies, events.Outcomes); err != nil {
		return nil, err
	}
	var run context.Context
	run, s.stop = context.WithCancel(context.Background())
	if err := s.startEngine(ctx, run, b); err != nil {
		return nil, err
	}
	if err := s.startParticipant(ctx, run, b); err != nil {
		return nil, err
	}
	s.starter = broker.NewCommitter(b, 0)
	if s.outcomes, err = b.Tail(ctx, events.Outcomes); err != nil {
		return nil, err
	}
	s.run(func() error { return s.collect(run) })
	return s, nil
}

func (s *System) startEngine(ctx, run context.Context, b broker.Broker) error {
	pool, err := s.Open(ctx, engineDatabase, saga.SessionParams(),
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()},
		postgres.MigrationSet{Owner: "saga", FS: saga.Migrations()})
	if err != nil {
		return err
	}
	s.pools = append(s.pools, pool)
	relay := outbox.NewRelay(pool, b, outbox.RelayConfig{Name: "engine", Logger: s.config.Logger})
	commands := broker.NewDispatcher(b, broker.DispatcherConfig{Name: "engine", Logger: s.config.Logger})
	engine, err := saga.NewEngine(pool, saga.EngineConfig{Wake: relay.Wake, Commands: commands, Logger: s.config.Logger}, definition)
	if err != nil {
		return err
	}
	feed, err := consumer.NewFeed(pool, b, engine, consumer.FeedConfig{
		Name: saga.ConsumerName, Topics: engine.Topics(), BatchMax: 256, Logger: s.config.Logger,
	})
	if err != nil {
		return err
	}
	s.run(func() error { return relay.Run(run) })
	s.run(func() error { return commands.Run(run) })
	s.run(func() error { return engine.RunTimers(run) })
	s.run(func() error { return feed.Run(run) })
	return nil
}

func (s *System) startParticipant(ctx, run context.Context, b broker.Broker) error {
	pool, err := s.Open(ctx, participantDatabase, consumer.SessionParams(),
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()})
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, tables); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	s.pools = append(s.pools, pool)
	relay := outbox.NewRelay(pool, b, outbox.RelayConfig{Name: "shop", Logger: s.config.Logger})
	obey := handlers
	if s.config.Batched {
		obey = batchHandlers
	}
	replies := broker.NewDispatcher(b, broker.DispatcherConfig{Name: "shop", Logger: s.config.Logger})
	commands, err := consumer.NewCommands(pool, consumer.CommandsConfig{
		Name: "shop", Wake: relay.Wake, Replies: replies, Logger: s.config.Logger,
	}, obey()...)
	if err != nil {
		return err
	}
	feeding := consumer.FeedConfig{Name: "shop", Topics: commands.Topics(), BatchMax: 256, Logger: s.config.Logger}
	if !s.config.Batched {
		feeding.BatchMax, feeding.Workers = 1, b.Partitions()
	}
	feed, err := consumer.NewFeed(pool, b, commands, feeding)
	if err != nil {
		return err
	}
	s.run(func() error { return relay.Run(run) })
	s.run(func() error { return replies.Run(run) })
	s.run(func() error { return feed.Run(run) })
	return nil
}

func (s *System) run(loop func() error) {
	s.running.Go(func() {
		if err := loop(); err != nil {
			s.fail(err)
		}
	})
}

// fail ends every wait: figures of a system that has lost a part mean nothing.
func (s *System) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	for id, waiting := range s.waiting {
		close(waiting)
		delete(s.waiting, id)
	}
}

// collect hands outcomes to those who wait for them.
func (s *System) collect(ctx context.Context) error {
	for {
		batch, err := s.outcomes.Next(ctx, 1000)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		for i := range batch {
			e := &batch[i].Event
			if waiting, ok := s.waiting[e.CorrelationID]; ok {
				waiting <- *e // there is room for one
				delete(s.waiting, e.CorrelationID)
			}
		}
		s.mu.Unlock()
	}
}

// patience bounds one saga. A lost message costs a few seconds; more is a fault.
const patience = time.Minute

// Run runs one saga to its end and returns how long that took, from before its
// start is published to its outcome.
func (s *System) Run(ctx context.Context, fail bool) (time.Duration, error) {
	began := time.Now()
	id := events.NewID()
	e, err := begin.New(id, "/bench", start{fail}, began)
	if err != nil {
		return 0, err
	}
	e.CorrelationID, e.PartitionKey = id, id
	waiting := make(chan events.Event, 1)
	s.mu.Lock()
	if err = s.failed; err == nil {
		s.waiting[id] = waiting
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if _, err := s.starter.Publish(ctx, broker.Message{Topic: begin.Topic(), PublishID: id, Event: e}); err != nil {
		return 0, err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	want := events.OutcomeType(begin.Type(), string(saga.Completed))
	if fail {
		want = events.OutcomeType(begin.Type(), string(saga.Compensated))
	}
	select {
	case outcome, ok := <-waiting:
		switch {
		case !ok:
			return 0, errors.New("a part of the system has failed")
		case outcome.Type != want:
			return 0, fmt.Errorf("saga %s ended with %s, want %s", id, outcome.Type, want)
		}
		return time.Since(began), nil
	case <-late.C:
		return 0, fmt.Errorf("saga %s has no outcome after %s", id, patience)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Verify checks that each saga has left the rows it should, once.
func (s *System) Verify(ctx context.Context, completed, compensated int) error {
	var heldRows, released, payments, confirmations int
	err := s.pools[1].QueryRow(ctx, `
		select count(*) filter (where status = 'held'), count(*) filter (where status = 'released'),
			(select count(*) from payment), (select count(*) from confirmation) from reservation`).
		Scan(&heldRows, &released, &payments, &confirmations)
	if err != nil {
		return fmt.Errorf("verify rows: %w", err)
	}
	if heldRows != completed || released != compensated || payments != completed || confirmations != completed {
		return fmt.Errorf("%d sagas completed and %d were compensated, and there are %d held and %d released reservations, %d payments and %d confirmations",
			completed, compensated, heldRows, released, payments, confirmations)
	}
	return nil
}

// Stop ends everything and waits for it. The databases stay.
func (s *System) Stop() {
	if s.starter != nil {
		s.starter.Close()
	}
	if s.stop != nil {
		s.stop()
	}
	s.running.Wait()
	if s.outcomes != nil {
		s.outcomes.Close()
	}
	for _, pool := range s.pools {
		pool.Close()
	}
	if s.leave != nil {
		s.leave()
	}
	if s.nats != nil {
		s.nats.Stop()
	}
	if s.Database != nil {
		if err := s.Database.Stop(); err != nil {
			s.config.Logger.Error("postgres did not stop", "error", err)
		}
	}
}
