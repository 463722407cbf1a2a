package saga_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/saga"
)

// whole is two engines and one participant, each with a relay and a feed, on a
// broker and databases of their own.
type whole struct {
	t      *testing.T
	nats   *natsbroker.Broker
	engine *pgxpool.Pool
}

// start runs something until the test ends.
func (w *whole) start(what string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("%s: %v", what, err)
		}
	})
}

// serve runs a processor with a feed, and the relay of its database.
func (w *whole) serve(pool *pgxpool.Pool, name string, topics []events.Topic, make func(relay *outbox.Relay) consumer.Processor) {
	w.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	relay := outbox.NewRelay(pool, w.nats, outbox.RelayConfig{Poll: 50 * time.Millisecond, Balance: 50 * time.Millisecond, Logger: quiet})
	feed, err := consumer.NewFeed(pool, w.nats, make(relay), consumer.FeedConfig{
		Name: name, Topics: topics, Balance: 50 * time.Millisecond, Logger: quiet,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.start("feed of "+name, feed.Run)
	w.start("relay of "+name, relay.Run)
}

func TestEndToEnd(t *testing.T) {
	embeddedtest.Postgres(t) // the server outlives the test
	leaks(t)
	w := &whole{t: t, nats: openBroker(t), engine: database(t, saga.SessionParams())}
	travel := database(t, nil)
	if _, err := travel.Exec(t.Context(), "create table effect (n bigint generated always as identity, trip text, what text)"); err != nil {
		t.Fatal(err)
	}

	// Every fifth trip is refused by gamma, and every fifth gets no answer from beta.
	want, fates := make(map[string]string), make(map[string]fate)
	for n, id := range ids(30) {
		switch n % 5 {
		case 3:
			want[id], fates[id] = "compensated: alpha beta -beta -alpha", fate{"gamma", events.Reject("full", "no room")}
		case 4:
			want[id], fates[id] = "compensated: alpha beta -beta -alpha", fate{"beta", consumer.ErrDeferred}
		default:
			want[id] = "completed: alpha beta gamma delta"
		}
	}

	patient := beta() // long enough for a busy machine
	patient.Timeout, patient.Retry = 3*time.Second, saga.Retry{Min: 300 * time.Millisecond}
	definition := define(alpha(), patient, pivot(gamma()), delta())
	metrics := prometheus.NewRegistry()
	for n := range 2 {
		config := saga.EngineConfig{Poll: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
		if n == 0 {
			config.Metrics = metrics
		}
		var e *saga.Engine
		w.serve(w.engine, saga.ConsumerName, []events.Topic{events.Replies, begin.Topic()}, func(relay *outbox.Relay) consumer.Processor {
			config.Wake = relay.Wake
			var err error
			if e, err = saga.NewEngine(w.engine, config, definition); err != nil {
				t.Fatal(err)
			}
			return e
		})
		w.start("timers", e.RunTimers)
	}
	commands, err := consumer.NewCommands(travel, consumer.CommandsConfig{Name: "travel", Logger: slog.New(slog.DiscardHandler)},
		leg(fates, doA, "alpha"), leg(fates, doB, "beta"), leg(fates, doC, "gamma"), leg(fates, doD, "delta"),
		back(undoA, "-alpha"), back(undoB, "-beta"))
	if err != nil {
		t.Fatal(err)
	}
	w.serve(travel, "travel", commands.Topics(), func(*outbox.Relay) consumer.Processor { return commands })

	if err := w.nats.Ensure(t.Context(), begin.Topic()); err != nil {
		t.Fatal(err)
	}
	var messages []broker.Message
	for id := range want {
		for range 2 { // the client sends it twice
			messages = append(messages, broker.Message{Topic: begin.Topic(), Event: startOf(t, id).Event})
		}
	}
	for _, receipt := range w.nats.PublishBatch(t.Context(), messages) {
		if receipt.Err != nil {
			t.Fatal(receipt.Err)
		}
	}

	reader := saga.NewReader(w.engine)
	eventually(t, "every saga ends", func() bool {
		counts, err := reader.Counts(t.Context())
		return err == nil && counts[saga.Completed] == 18 && counts[saga.Compensated] == 12
	})
	for id, story := range want {
		in, _, err := reader.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := travel.Query(t.Context(), "select what from effect where trip = $1 order by n", id)
		if err != nil {
			t.Fatal(err)
		}
		effects, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s: %s", in.Status, strings.Join(effects, " ")); got != story {
			t.Errorf("saga %s\n got %s\nwant %s", id, got, story)
		}
	}
	eventually(t, "every outcome is published", func() bool {
		var left int
		err := w.engine.QueryRow(t.Context(), "select count(*) from outbox").Scan(&left)
		return err == nil && left == 0
	})
	w.outcomes(slices.Collect(maps.Keys(want)))
	families, err := metrics.Gather()
	if err != nil || len(families) == 0 {
		t.Errorf("metrics: %v, %v", families, err)
	}
	var left int
	err = w.engine.QueryRow(t.Context(), "select (select count(*) from saga_live) + (select count(*) from dead_letter)").Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d timers and dead letters are left, %v", left, err)
	}
}

// outcomes checks that there is one outcome event for each of those sagas.
func (w *whole) outcomes(ids []string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	reader, err := w.nats.Read(ctx, events.Outcomes, map[int]broker.Start{0: {}, 1: {}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer reader.Close()
	var told []string
	for len(told) < len(ids) {
		deliveries, err := reader.Next(ctx, 100)
		if err != nil {
			w.t.Fatalf("after %d of %d outcomes: %v", len(told), len(ids), err)
		}
		for i := range deliveries {
			told = append(told, deliveries[i].Event.Subject)
		}
	}
	slices.Sort(told)
	slices.Sort(ids)
	if !slices.Equal(told, ids) {
		w.t.Errorf("%d outcomes of %d sagas", len(told), len(ids))
	}
}

// fate is how one step of a trip ends.
type fate struct {
	step string
	err  error
}

// leg does a step of a trip, with what fate has in store for it.
func leg(fates map[string]fate, command events.Command[booking, ticket], name string) consumer.Handler {
	return consumer.Handle(command, func(ctx context.Context, tx pgx.Tx, request booking) (ticket, error) {
		if _, err := tx.Exec(ctx, "insert into effect (trip, what) values ($1, $2)", request.Trip, name); err != nil {
			return ticket{}, err
		}
		if f := fates[request.Trip]; f.step == name {
			return ticket{}, f.err
		}
		return ticket{1}, nil
	})
}

// back undoes a step of a trip.
func back(command events.Command[refund, events.None], name string) consumer.Handler {
	return consumer.Handle(command, func(ctx context.Context, tx pgx.Tx, request refund) (events.None, error) {
		_, err := tx.Exec(ctx, "insert into effect (trip, what) values ($1, $2)", request.Trip, name)
		return events.None{}, err
	})
}
