// Package consumertest runs the handlers of a service in a test as they run in
// production: on a real Postgres, a real JetStream, with the feed, the inbox,
// the outbox and its relay. The test sends commands as the engine does and reads
// the replies.
//
// Servers come from package embeddedtest, so the test binary needs its Main in
// TestMain.
package consumertest

import (
	"context"
	"encoding/json"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// Config of a [Rig]. Name and Handlers are required.
type Config struct {
	// Name of the consumer.
	Name string
	// Migrations of the service; those of the outbox and the consumer are applied
	// as well.
	Migrations fs.FS
	// Handlers makes the service on the rig's parts and returns its handlers.
	Handlers func(r *Rig) []consumer.Handler
	// AttemptsMax is how often a delivery is tried: 2 by default.
	AttemptsMax int
	// ParkKeys is that of the feed.
	ParkKeys bool
	// Broker is a JetStream of the test's own unless it is given.
	Broker broker.Broker
	// Window is that of the inbox.
	Window time.Duration
	// Idle starts no feed: the test runs its own, of [Rig.NewFeed].
	Idle bool
}

// Rig is a service that obeys commands until the test ends. It is for the test's
// own goroutine, except for Pool and Broker.
type Rig struct {
	T      *testing.T
	Pool   *pgxpool.Pool
	Broker broker.Broker
	Relay  *outbox.Relay
	Logger *slog.Logger // writes to the test's output

	name     string
	parkKeys bool
	commands *consumer.Commands
	replies  broker.Reader
	early    map[string][]events.Event // replies that nobody has asked for yet, by command
}

// New starts a rig on a database and a broker of its own.
func New(t *testing.T, config Config) *Rig {
	t.Helper()
	r := &Rig{T: t, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), name: config.Name, parkKeys: config.ParkKeys, early: make(map[string][]events.Event)}
	sets := []postgres.MigrationSet{
		{Owner: "outbox", FS: outbox.Migrations()},
		{Owner: "consumer", FS: consumer.Migrations()},
	}
	if config.Migrations != nil {
		sets = append(sets, postgres.MigrationSet{Owner: config.Name, FS: config.Migrations})
	}
	r.Pool = postgrestest.Open(t, postgres.Config{Params: consumer.SessionParams(), MaxConns: 40}, sets...)
	if r.Broker = config.Broker; r.Broker == nil {
		conn, err := embeddedtest.NATS(t).Connect()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		if r.Broker, err = natsbroker.New(conn, natsbroker.Config{Partitions: 4}); err != nil {
			t.Fatal(err)
		}
	}
	r.Relay = outbox.NewRelay(r.Pool, r.Broker, outbox.RelayConfig{Name: config.Name, Logger: r.Logger})
	replies := broker.NewDispatcher(r.Broker, broker.DispatcherConfig{Name: config.Name, Logger: r.Logger})
	var err error
	r.commands, err = consumer.NewCommands(r.Pool, consumer.CommandsConfig{
		Name: config.Name, AttemptsMax: max(config.AttemptsMax, 2), Wake: r.Relay.Wake, Replies: replies, Window: config.Window, Logger: r.Logger,
	}, config.Handlers(r)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Broker.Ensure(t.Context(), append(r.commands.Topics(), events.Replies)...); err != nil {
		t.Fatal(err)
	}
	if r.replies, err = r.Broker.Tail(t.Context(), events.Replies); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.replies.Close)
	r.Run(r.Relay.Run, replies.Run)
	if !config.Idle {
		r.Feed()
	}
	return r
}

// Feed runs one more process's share of the work.
func (r *Rig) Feed() {
	r.T.Helper()
	r.Run(r.NewFeed().Run)
}

// NewFeed returns the feed of one more process, which is not running.
func (r *Rig) NewFeed() *consumer.Feed {
	r.T.Helper()
	feed, err := consumer.NewFeed(r.Pool, r.Broker, r.commands, consumer.FeedConfig{
		Name: r.name, Topics: r.commands.Topics(),
		BackoffMin: time.Millisecond, Balance: 50 * time.Millisecond, ParkKeys: r.parkKeys, Logger: r.Logger,
	})
	if err != nil {
		r.T.Fatal(err)
	}
	return feed
}

// Run runs those loops until the test ends, and fails it when one fails.
func (r *Rig) Run(loops ...func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() {
			if err := loop(ctx); err != nil {
				r.T.Error(err)
			}
		})
	}
	r.T.Cleanup(func() {
		stop()
		running.Wait()
	})
}

// Command addresses a command as the engine does, with a fresh id.
func Command[Q, R any](t *testing.T, contract events.Command[Q, R], saga string, request Q) events.Event {
	t.Helper()
	e, err := contract.New(events.NewID(), "/sagas/test", request, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e.CorrelationID, e.PartitionKey, e.ReplyTo = saga, saga, string(events.Replies)
	return e
}

// Send publishes the command: as a repetition, if it was sent before.
func (r *Rig) Send(e events.Event) {
	r.T.Helper()
	message := broker.Message{Topic: events.CommandTopic(e.Type), PublishID: events.NewID(), Event: e}
	if receipt := r.Broker.PublishBatch(r.T.Context(), []broker.Message{message})[0]; receipt.Err != nil {
		r.T.Fatal(receipt.Err)
	}
}

// Do sends the command and returns its reply; the code is empty when it is a
// positive one.
func Do[R any](r *Rig, e events.Event) (reply R, code events.Code) {
	r.T.Helper()
	r.Send(e)
	return Answer[R](r, e)
}

// Answer waits for the next reply to the command.
func Answer[R any](r *Rig, e events.Event) (reply R, code events.Code) {
	r.T.Helper()
	ctx, cancel := context.WithTimeout(r.T.Context(), patience)
	defer cancel()
	for len(r.early[e.ID]) == 0 {
		deliveries, err := r.replies.Next(ctx, 100)
		if err != nil {
			r.T.Fatalf("no reply to %s: %v", e.Type, err)
		}
		for _, d := range deliveries {
			r.early[d.Event.CausationID] = append(r.early[d.Event.CausationID], d.Event)
		}
	}
	event := r.early[e.ID][0]
	r.early[e.ID] = r.early[e.ID][1:]
	var rejection events.Rejection
	into := any(&reply)
	if _, rejected, ok := events.ReplyOf(&event); !ok {
		r.T.Fatalf("%s is no reply", event.Type)
	} else if rejected {
		into = &rejection
	}
	if len(event.Data) > 0 {
		if err := json.Unmarshal(event.Data, into); err != nil {
			r.T.Fatal(err)
		}
	}
	return reply, rejection.Code
}

// Unread returns how many replies to the command came before the last one that was
// answered, and have not been asked for.
func (r *Rig) Unread(e events.Event) int { return len(r.early[e.ID]) }

// Read returns the single value of a query.
func Read[V any](r *Rig, query string, args ...any) (value V) {
	r.T.Helper()
	if err := r.Pool.QueryRow(r.T.Context(), query, args...).Scan(&value); err != nil {
		r.T.Fatalf("%s: %v", query, err)
	}
	return value
}

// Await waits until a query that counts finds that many.
func (r *Rig) Await(want int, query string, args ...any) {
	r.T.Helper()
	for limit := time.Now().Add(patience); Read[int](r, query, args...) < want; {
		if time.Now().After(limit) {
			r.T.Fatalf("%d of %d: %s", Read[int](r, query, args...), want, query)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
