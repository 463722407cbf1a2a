package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/tests/internal/checkout3"
)

// kafkaBrokers names the servers of --broker kafka: a cluster of the benchmark's
// own, or what the command withkafka has started.
const kafkaBrokers = "COUNTERMAND_TEST_KAFKA_BROKERS"

// bus is a database and a broker, which the messaging benchmarks share.
type bus struct {
	*checkout3.Database
	broker.Broker
	pool   *pgxpool.Pool
	logger *slog.Logger
	ends   []func()
}

// busPartitions is as many as the servers of the products have by default.
const busPartitions = 8

// startBus starts Postgres and the broker that the options name. Postgres and
// JetStream sync before they answer; Kafka, as it does, answers before that.
func startBus(ctx context.Context, options options) (b *bus, report Report, err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as the binaries do
	}
	b = &bus{logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	report = Report{Load: map[string]any{"broker": options.broker, "duration_s": options.duration.Seconds()}, Machine: machine()}
	defer func() {
		if err != nil {
			b.stop()
		}
	}()
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return b, report, err
	}
	b.ends = append(b.ends, func() { _ = os.RemoveAll(dir) })
	options.say("starting PostgreSQL and joining the broker %s", options.broker)
	if b.Database, err = checkout3.StartDatabase(ctx, dir, ""); err != nil {
		return b, report, err
	}
	b.ends = append(b.ends, func() {
		if err := b.Stop(); err != nil {
			options.say("%v", err)
		}
	})
	if err := b.join(options.broker, dir); err != nil {
		return b, report, err
	}
	version, err := b.Version(ctx)
	if err != nil {
		return b, report, err
	}
	report.Versions, err = selfVersions(version)
	return b, report, err
}

// join connects to the broker.
func (b *bus) join(name, dir string) error {
	if name == "kafka" {
		addrs := os.Getenv(kafkaBrokers)
		if addrs == "" {
			return fmt.Errorf("--broker kafka needs servers in %s; try: go run ./platform/broker/kafkatest/cmd/withkafka -real -- go run ./tests/bench relay --broker kafka", kafkaBrokers)
		}
		k, err := kafkabroker.New(kafkabroker.Config{
			Addrs: strings.Split(addrs, ","), Partitions: busPartitions, Logger: b.logger,
			TopicPrefix: fmt.Sprintf("bench%d.", time.Now().UnixNano()),
		})
		if err != nil {
			return err
		}
		b.Broker = k
		b.ends = append(b.ends, k.Close)
		return nil
	}
	server, err := embedded.StartNATS(embedded.NATSConfig{StoreDir: filepath.Join(dir, "nats")})
	if err != nil {
		return err
	}
	b.ends = append(b.ends, server.Stop)
	conn, err := server.Connect()
	if err != nil {
		return err
	}
	b.ends = append(b.ends, conn.Close)
	b.Broker, err = natsbroker.New(conn, natsbroker.Config{AtomicFrom: 4, Partitions: busPartitions})
	return err
}

// renew gives the bus an empty database.
func (b *bus) renew(ctx context.Context, params map[string]string, tables string) (err error) {
	if b.pool != nil {
		b.pool.Close()
	}
	b.pool, err = b.Open(ctx, "bench_bus", params,
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()})
	if err != nil {
		return err
	}
	_, err = b.pool.Exec(ctx, tables)
	return err
}

func (b *bus) stop() {
	if b.pool != nil {
		b.pool.Close()
	}
	for _, end := range slices.Backward(b.ends) {
		end()
	}
}

// flush has the idle connections report their commits, which they would do a second
// later.
func (b *bus) flush(ctx context.Context) {
	for _, conn := range b.pool.AcquireAllIdle(ctx) {
		_, _ = conn.Exec(ctx, "select pg_stat_force_next_flush()") // an older server counts too few
		conn.Release()
	}
	time.Sleep(100 * time.Millisecond)
}

// measured runs do and adds what it used for each of the things that it says it
// did.
func (b *bus) measured(ctx context.Context, run *Run, unit string, do func() (n int, err error)) error {
	b.flush(ctx)
	before, err := b.Usage(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	n, err := do()
	if err == nil && n == 0 {
		err = errors.New("nothing was done")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", run.Name, err)
	}
	elapsed := time.Since(began)
	b.flush(ctx)
	after, err := b.Usage(ctx)
	if err != nil {
		return err
	}
	used, each := after.Since(before), float64(n)
	micro := func(d time.Duration) float64 { return float64(d.Microseconds()) / each }
	run.add(unit+"s_per_second", each/elapsed.Seconds(), "1/s")
	run.add("cpu_us_per_"+unit, micro(used.Go+used.Postgres), "µs")
	run.add("cpu_go_us_per_"+unit, micro(used.Go), "µs")
	run.add("cpu_postgres_us_per_"+unit, micro(used.Postgres), "µs")
	run.add("commits_per_"+unit, float64(used.Commits)/each, "1")
	run.add("wal_bytes_per_"+unit, float64(used.WAL)/each, "B")
	return nil
}

// note is the event that the benchmarks send: some 200 bytes of data.
type note struct {
	Number int    `json:"number"`
	Text   string `json:"text"`
}

var (
	noted   = events.NewFact[note]("bench.note.written.v1")
	notes   = strings.Repeat("n", 180)
	keysMax = 1000
)

// message returns note number n, of one of a thousand keys.
func message(n int) (broker.Message, error) {
	e, err := noted.New(events.NewID(), "/bench", note{Number: n, Text: notes}, time.Now())
	if err != nil {
		return broker.Message{}, err
	}
	e.PartitionKey = fmt.Sprint("key-", n%keysMax)
	return broker.Message{Topic: noted.Topic(), PublishID: e.ID, Event: e}, nil
}

// fromTheBeginning reads all partitions of a topic.
func (b *bus) fromTheBeginning(ctx context.Context, topic events.Topic) (broker.Reader, error) {
	from := make(map[int]broker.Start, b.Partitions())
	for partition := range b.Partitions() {
		from[partition] = broker.Start{}
	}
	return b.Read(ctx, topic, from)
}
