// Command forwarder measures how fast events go from Postgres to JetStream by our
// outbox and relay, and by what a user of watermill would take: watermill-sql's
// messages table and watermill's forwarder, over watermill-nats. Both on one
// Postgres and one JetStream with fsync, in one run:
//
//	make bench-forwarder ARGS="--duration 10s --json"
//
// Writers commit a business row and one event each; then the backlog goes out, for
// as long as the duration says. It ends with a table, or with one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/tests/internal/checkout3"
)

func main() {
	duration := flag.Duration("duration", 10*time.Second, "for how long each backlog goes out")
	asJSON := flag.Bool("json", false, "print one JSON object")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as our binaries do; the other side gains by it as well
	}
	report, err := compare(ctx, *duration)
	if err != nil {
		fmt.Fprintln(os.Stderr, "forwarder:", err)
		os.Exit(1)
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(report)
		return
	}
	for _, side := range []side{report.Ours, report.Forwarder} {
		fmt.Printf("%-12s %8.0f events/s  %7.0f µs CPU  %6.0f B WAL each\n", side.Name, side.EventsPerSecond, side.CPU, side.WAL)
	}
	fmt.Printf("ratio        %8.1f\n", report.Ratio)
}

// side is one way from Postgres to JetStream.
type side struct {
	Name            string  `json:"name"`
	EventsPerSecond float64 `json:"events_per_second"`
	CPU             float64 `json:"cpu_us_per_event"` // of this process, which JetStream is in, and of Postgres
	WAL             float64 `json:"wal_bytes_per_event"`
}

type report struct {
	Name      string  `json:"name"`
	Ours      side    `json:"ours"`
	Forwarder side    `json:"forwarder"`
	Ratio     float64 `json:"ratio"`
}

// What the writers write, and how many there are.
const (
	writers         = 16
	business        = "insert into business (note) values ($1)"
	businessTable   = "create table business (id bigint generated always as identity primary key, note text not null)"
	oursPerSecond   = 40_000 // of backlog, for each second of the duration
	theirsPerSecond = 4_000
)

var text = strings.Repeat("n", 180)

func compare(ctx context.Context, duration time.Duration) (r report, err error) {
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return r, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	database, err := checkout3.StartDatabase(ctx, dir, "")
	if err != nil {
		return r, err
	}
	defer func() { _ = database.Stop() }()
	server, err := embedded.StartNATS(embedded.NATSConfig{StoreDir: filepath.Join(dir, "nats"), Listen: "127.0.0.1:0"})
	if err != nil {
		return r, err
	}
	defer server.Stop()
	r.Name = "forwarder"
	if r.Forwarder, err = theirs(ctx, database, server, duration); err != nil {
		return r, fmt.Errorf("watermill's forwarder: %w", err)
	}
	if r.Ours, err = ours(ctx, database, server, duration); err != nil {
		return r, fmt.Errorf("our relay: %w", err)
	}
	r.Ratio = r.Ours.EventsPerSecond / r.Forwarder.EventsPerSecond
	return r, nil
}

// each calls do so often, by all writers.
func each(ctx context.Context, pool *pgxpool.Pool, n int, do func(tx pgx.Tx, i int) error) error {
	var (
		next atomic.Int64
		wait sync.WaitGroup
		mu   sync.Mutex
		bad  error
	)
	for range writers {
		wait.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, business, text); err != nil {
						return err
					}
					return do(tx, i)
				})
				if err != nil {
					mu.Lock()
					bad = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wait.Wait()
	return bad
}

// clear runs what moves the backlog and tells how fast it was, by what published
// returns.
func clear(ctx context.Context, name string, database *checkout3.Database, duration time.Duration, backlog int,
	run func(ctx context.Context) error, published func() int,
) (side, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	before, err := database.Usage(ctx)
	if err != nil {
		return side{}, err
	}
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	for time.Since(began) < duration && published() < backlog {
		select {
		case err := <-ended:
			return side{}, fmt.Errorf("it ended by itself: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
	n, elapsed := float64(published()), time.Since(began)
	after, err := database.Usage(ctx)
	if err != nil {
		return side{}, err
	}
	stop()
	<-ended
	if n == 0 {
		return side{}, fmt.Errorf("nothing was published within %s", duration)
	}
	used := after.Since(before)
	return side{
		Name: name, EventsPerSecond: n / elapsed.Seconds(),
		CPU: float64((used.Go + used.Postgres).Microseconds()) / n, WAL: float64(used.WAL) / n,
	}, nil
}

// counting is a publisher that counts.
type counting struct {
	message.Publisher
	n atomic.Int64
}

func (c *counting) Publish(topic string, messages ...*message.Message) error {
	err := c.Publisher.Publish(topic, messages...)
	if err == nil {
		c.n.Add(int64(len(messages)))
	}
	return err
}

func theirs(ctx context.Context, database *checkout3.Database, server *embedded.NATS, duration time.Duration) (side, error) {
	pool, err := database.Open(ctx, "bench_forwarder", nil)
	if err != nil {
		return side{}, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, businessTable); err != nil {
		return side{}, err
	}
	const topic, queue = "bench_notes", "forwarding"
	quiet := watermill.NewSlogLogger(slog.New(slog.DiscardHandler))
	// The largest batches that it documents, and no rest, to its advantage.
	schema := watermillsql.DefaultPostgreSQLSchema{SubscribeBatchSize: 1000}
	subscriber, err := watermillsql.NewSubscriber(watermillsql.BeginnerFromPgx(pool), watermillsql.SubscriberConfig{
		ConsumerGroup: "bench", SchemaAdapter: schema, OffsetsAdapter: watermillsql.DefaultPostgreSQLOffsetsAdapter{},
		InitializeSchema: true, PollInterval: time.Millisecond,
	}, quiet)
	if err != nil {
		return side{}, err
	}
	if err := subscriber.SubscribeInitialize(queue); err != nil {
		return side{}, err
	}
	out, err := watermillnats.NewPublisher(watermillnats.PublisherConfig{
		URL: server.URL(), Marshaler: &watermillnats.NATSMarshaler{},
		JetStream: watermillnats.JetStreamConfig{AutoProvision: true, TrackMsgId: true},
	}, quiet)
	if err != nil {
		return side{}, err
	}
	counted := &counting{Publisher: out}
	forward, err := forwarder.NewForwarder(subscriber, counted, quiet, forwarder.Config{ForwarderTopic: queue})
	if err != nil {
		return side{}, err
	}
	backlog := int(theirsPerSecond * duration.Seconds())
	err = each(ctx, pool, backlog, func(tx pgx.Tx, _ int) error {
		in, err := watermillsql.NewPublisher(watermillsql.TxFromPgx(tx), watermillsql.PublisherConfig{SchemaAdapter: schema}, quiet)
		if err != nil {
			return err
		}
		return forwarder.NewPublisher(in, forwarder.PublisherConfig{ForwarderTopic: queue}).
			Publish(topic, message.NewMessage(watermill.NewUUID(), []byte(`{"text":"`+text+`"}`)))
	})
	if err != nil {
		return side{}, err
	}
	return clear(ctx, "forwarder", database, duration, backlog, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = forward.Close() })()
		return forward.Run(ctx)
	}, func() int { return int(counted.n.Load()) })
}

type note struct {
	Text string `json:"text"`
}

// tally is a publisher that counts what is stored.
type tally struct {
	broker.Publisher
	n atomic.Int64
}

func (t *tally) PublishBatch(ctx context.Context, messages []broker.Message) []broker.Receipt {
	receipts := t.Publisher.PublishBatch(ctx, messages)
	for i := range receipts {
		if receipts[i].Err == nil {
			t.n.Add(1)
		}
	}
	return receipts
}

func ours(ctx context.Context, database *checkout3.Database, server *embedded.NATS, duration time.Duration) (side, error) {
	pool, err := database.Open(ctx, "bench_relay", nil, postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()})
	if err != nil {
		return side{}, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, businessTable); err != nil {
		return side{}, err
	}
	conn, err := server.Connect()
	if err != nil {
		return side{}, err
	}
	defer conn.Close()
	b, err := natsbroker.New(conn, natsbroker.Config{AtomicFrom: 4})
	if err != nil {
		return side{}, err
	}
	noted := events.NewFact[note]("bench.note.written.v1")
	if err := b.Ensure(ctx, noted.Topic()); err != nil {
		return side{}, err
	}
	backlog := int(oursPerSecond * duration.Seconds())
	err = each(ctx, pool, backlog, func(tx pgx.Tx, i int) error {
		e, err := noted.New(events.NewID(), "/bench", note{text}, time.Now())
		if err != nil {
			return err
		}
		e.PartitionKey = fmt.Sprint("key-", i%1000)
		return outbox.Write(ctx, tx, broker.Message{Topic: noted.Topic(), PublishID: e.ID, Event: e})
	})
	if err != nil {
		return side{}, err
	}
	counted := &tally{Publisher: b}
	relay := outbox.NewRelay(pool, counted, outbox.RelayConfig{Name: "bench"})
	return clear(ctx, "outbox relay", database, duration, backlog, relay.Run, func() int { return int(counted.n.Load()) })
}
