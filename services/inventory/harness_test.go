package inventory_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
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
	"github.com/countermand/countermand/services/inventory"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// rig is the service on a real database and a real broker.
type rig struct {
	*inventory.Service
	t        *testing.T
	pool     *pgxpool.Pool
	broker   broker.Broker
	commands *consumer.Commands
	logger   *slog.Logger
	replies  broker.Reader
	early    map[string][]events.Event // replies that nobody has asked for yet, by command
}

func setup(t *testing.T) *rig {
	t.Helper()
	ctx := t.Context()
	pool, err := postgres.Open(ctx, postgres.Config{URL: embeddedtest.Postgres(t), MaxConns: 40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	err = postgres.Migrate(ctx, pool,
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()},
		postgres.MigrationSet{Owner: inventory.Name, FS: inventory.Migrations()})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	service := inventory.New(pool, logger)
	relay := outbox.NewRelay(pool, b, outbox.RelayConfig{Name: inventory.Name, Logger: logger})
	commands, err := consumer.NewCommands(pool, consumer.CommandsConfig{
		Name: inventory.Name, AttemptsMax: 2, Wake: relay.Wake, Logger: logger,
	}, service.Handlers()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(ctx, append(commands.Topics(), events.Replies)...); err != nil {
		t.Fatal(err)
	}
	replies, err := b.Tail(ctx, events.Replies)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replies.Close)
	r := &rig{
		Service: service, t: t, pool: pool, broker: b, commands: commands, logger: logger,
		replies: replies, early: make(map[string][]events.Event),
	}
	r.run(relay.Run)
	r.feed()
	return r
}

// feed runs one more process's share of the work.
func (r *rig) feed() {
	r.t.Helper()
	feed, err := consumer.NewFeed(r.pool, r.broker, r.commands, consumer.FeedConfig{
		Name: inventory.Name, Topics: r.commands.Topics(),
		BackoffMin: time.Millisecond, Balance: 50 * time.Millisecond, Logger: r.logger,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.run(feed.Run)
}

// run runs those loops until the test ends.
func (r *rig) run(loops ...func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() {
			if err := loop(ctx); err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(func() {
		stop()
		running.Wait()
	})
}

// command addresses a command as the engine does.
func command[Q, R any](t *testing.T, contract events.Command[Q, R], saga string, request Q) events.Event {
	t.Helper()
	e, err := contract.New(events.NewID(), "/sagas/checkout", request, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e.CorrelationID, e.PartitionKey, e.ReplyTo = saga, saga, string(events.Replies)
	return e
}

// send publishes the command, as a repetition if it was sent before.
func (r *rig) send(e events.Event) {
	r.t.Helper()
	topic := events.CommandTopic(e.Type)
	message := broker.Message{Topic: topic, PublishID: events.NewID(), Event: e}
	if receipt := r.broker.PublishBatch(r.t.Context(), []broker.Message{message})[0]; receipt.Err != nil {
		r.t.Fatal(receipt.Err)
	}
}

// do sends the command and returns its reply; the code is empty when it is a
// positive one.
func do[R any](r *rig, e events.Event) (reply R, code events.Code) {
	r.t.Helper()
	r.send(e)
	return answer[R](r, e)
}

// answer waits for the next reply to the command.
func answer[R any](r *rig, e events.Event) (reply R, code events.Code) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	for len(r.early[e.ID]) == 0 {
		deliveries, err := r.replies.Next(ctx, 100)
		if err != nil {
			r.t.Fatalf("no reply to %s: %v", e.Type, err)
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
		r.t.Fatalf("%s is no reply", event.Type)
	} else if rejected {
		into = &rejection
	}
	if len(event.Data) > 0 {
		if err := json.Unmarshal(event.Data, into); err != nil {
			r.t.Fatal(err)
		}
	}
	return reply, rejection.Code
}

// read returns the single row of a query.
func read[T any](r *rig, query string, args ...any) (value T) {
	r.t.Helper()
	if err := r.pool.QueryRow(r.t.Context(), query, args...).Scan(&value); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return value
}

// await waits until a query that counts finds that many.
func (r *rig) await(want int, query string) {
	r.t.Helper()
	for limit := time.Now().Add(20 * time.Second); read[int](r, query) < want; {
		if time.Now().After(limit) {
			r.t.Fatalf("%d of %d: %s", read[int](r, query), want, query)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// get asks the read API.
func (r *rig) get(path string) (status int, contentType, body string) {
	r.t.Helper()
	recorder := httptest.NewRecorder()
	r.HTTP().ServeHTTP(recorder, httptest.NewRequestWithContext(r.t.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Header().Get("Content-Type"), recorder.Body.String()
}
