package saga_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
	"github.com/countermand/countermand/platform/saga"
)

// patience bounds what a test waits for that should come at once.
const patience = 20 * time.Second

// bench is a database with engines on it that are handed the very batches that a
// test wants.
type bench struct {
	t      *testing.T
	pool   *pgxpool.Pool
	engine *saga.Engine
	batch  *consumer.Batch
	offset uint64
	logs   *logs
}

func newBench(t *testing.T, definitions ...saga.Compiler) *bench {
	t.Helper()
	if len(definitions) == 0 {
		definitions = []saga.Compiler{standard()}
	}
	return newBenchOn(t, database(t, saga.SessionParams()), definitions...)
}

func newBenchOn(t *testing.T, pool *pgxpool.Pool, definitions ...saga.Compiler) *bench {
	t.Helper()
	b := &bench{t: t, pool: pool, logs: new(logs)}
	b.batch = capture(t, b.pool, saga.ConsumerName)
	b.engine = b.another(definitions...)
	return b
}

// another returns an engine on the same database, as another process has one.
func (b *bench) another(definitions ...saga.Compiler) *saga.Engine {
	b.t.Helper()
	if len(definitions) == 0 {
		definitions = []saga.Compiler{standard()}
	}
	e, err := saga.NewEngine(b.pool, saga.EngineConfig{
		Poll: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, definitions...)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// database returns a pool on a fresh database with all tables. It fails the test
// when something is still connected at the end.
func database(t *testing.T, params map[string]string) *pgxpool.Pool {
	t.Helper()
	return postgrestest.Open(t, postgres.Config{Params: params, MaxConns: 10},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()},
		postgres.MigrationSet{Owner: "saga", FS: saga.Migrations()})
}

func openBroker(t *testing.T) *natsbroker.Broker {
	t.Helper()
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// capture returns the first batch of a feed that stays in the middle of it until
// the test ends, and so owns the positions of every partition.
func capture(t *testing.T, pool *pgxpool.Pool, name string) *consumer.Batch {
	t.Helper()
	nats := openBroker(t)
	topics := []events.Topic{events.Replies, events.Signals, begin.Topic(), landed.Topic()}
	if err := nats.Ensure(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
	bait := events.Event{ID: "bait", Source: "/test", Type: begin.Type()}
	for _, receipt := range nats.PublishBatch(t.Context(), []broker.Message{{Topic: begin.Topic(), Event: bait}}) {
		if receipt.Err != nil {
			t.Fatal(receipt.Err)
		}
	}
	trap := &trap{caught: make(chan *consumer.Batch), release: make(chan struct{})}
	feed, err := consumer.NewFeed(pool, nats, trap, consumer.FeedConfig{
		Name: name, Topics: topics, ProcessTimeout: time.Hour, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- feed.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		close(trap.release)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case batch := <-trap.caught:
		return batch
	case <-time.After(patience):
		t.Fatal("the feed never had a batch")
		return nil
	}
}

type trap struct {
	caught  chan *consumer.Batch
	release chan struct{}
}

func (p *trap) Process(_ context.Context, batch *consumer.Batch) error {
	select {
	case p.caught <- batch:
	case <-p.release:
	}
	<-p.release
	return postgres.ErrCommitUnknown // ends the feed's session
}

// process hands the engine a batch of those events. Positions begin anew each
// time, as in a feed that has read them again.
func (b *bench) process(deliveries ...broker.Delivery) {
	b.t.Helper()
	if err := b.try(b.t.Context(), b.engine, deliveries...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) try(ctx context.Context, e *saga.Engine, deliveries ...broker.Delivery) error {
	b.t.Helper()
	b.exec("update consumer_position set handled = 0")
	for i := range deliveries {
		b.offset++
		deliveries[i].Offset = b.offset
	}
	b.batch.Deliveries = deliveries
	return e.Process(ctx, b.batch)
}

func (b *bench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.pool.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

// ids returns that many saga ids.
func ids(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = events.NewID()
	}
	return all
}

func startOf(t testing.TB, id string) broker.Delivery {
	t.Helper()
	e, err := begin.New(id, "/test", booking{Trip: id}, dawn)
	if err != nil {
		t.Fatal(err)
	}
	e.CorrelationID, e.PartitionKey = id, id
	e.SetExtension("fingerprint", "f")
	return broker.Delivery{Topic: begin.Topic(), Event: e}
}

func starts(t testing.TB, ids ...string) []broker.Delivery {
	t.Helper()
	all := make([]broker.Delivery, len(ids))
	for i, id := range ids {
		all[i] = startOf(t, id)
	}
	return all
}

// replyTo answers the command of a step; "-alpha" is the undo of alpha.
func replyTo(t testing.TB, id, step string, data []byte, rejection *events.Rejection) broker.Delivery {
	t.Helper()
	name, back := strings.CutPrefix(step, "-")
	command := events.Event{ID: saga.DoID(id, name), Type: "test." + name + ".do.v1", CorrelationID: id, PartitionKey: id}
	if back {
		command.ID, command.Type = saga.UndoID(id, name), "test."+name+".undo.v1"
	}
	e, err := events.NewReply(&command, "/test", data, rejection, dawn)
	if err != nil {
		t.Fatal(err)
	}
	return broker.Delivery{Topic: events.Replies, Event: e}
}

func ok(t testing.TB, id, step string) broker.Delivery {
	t.Helper()
	return replyTo(t, id, step, []byte(`{"Number":1}`), nil)
}

func no(t testing.TB, id, step string) broker.Delivery {
	t.Helper()
	return replyTo(t, id, step, nil, &events.Rejection{Code: "full", Message: "no room"})
}

// advance replies to those steps, one batch each.
func (b *bench) advance(id string, steps ...string) {
	b.t.Helper()
	for _, step := range steps {
		b.process(ok(b.t, id, step))
	}
}

// stored reads a saga.
func (b *bench) stored(id string) (saga.Instance, int64) {
	b.t.Helper()
	in, revision, err := saga.NewReader(b.pool).Get(b.t.Context(), id)
	if err != nil {
		b.t.Fatalf("saga %s: %v", id, err)
	}
	return in, revision
}

// want checks the status and the revision of a saga.
func (b *bench) want(id string, status saga.Status, revision int64) {
	b.t.Helper()
	if in, r := b.stored(id); in.Status != status || r != revision {
		b.t.Errorf("saga is %s at revision %d, want %s at %d", in.Status, r, status, revision)
	}
}

// letter is a row of the outbox.
type letter struct {
	PublishID string
	Topic     events.Topic
	Event     events.Event
}

// outbox returns what has been written, in order.
func (b *bench) outbox() []letter {
	b.t.Helper()
	rows, err := b.pool.Query(b.t.Context(), "select publish_id, topic, attributes, data from outbox order by id")
	if err != nil {
		b.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l letter, err error) {
		var attributes, data []byte
		if err := row.Scan(&l.PublishID, &l.Topic, &attributes, &data); err != nil {
			return l, err
		}
		l.Event, err = events.ParseAttributes(attributes, data)
		l.PublishID = outbox.PublishID(l.PublishID, &l.Event)
		return l, err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// sent returns the types of what the outbox holds for a saga.
func (b *bench) sent(id string) string {
	b.t.Helper()
	var types []string
	for _, l := range b.outbox() {
		if l.Event.CorrelationID == id {
			types = append(types, strings.TrimSuffix(strings.TrimPrefix(l.Event.Type, "test."), ".v1"))
		}
	}
	return strings.Join(types, " ")
}

func (b *bench) wantSent(id, types string) {
	b.t.Helper()
	if got := b.sent(id); got != types {
		b.t.Errorf("sent %q, want %q", got, types)
	}
}

// outcomes returns the outcome events of a saga.
func (b *bench) outcomes(id string) (found []letter, decoded []saga.Outcome) {
	b.t.Helper()
	for _, l := range b.outbox() {
		if l.Topic != events.Outcomes || l.Event.CorrelationID != id {
			continue
		}
		var o saga.Outcome
		if err := json.Unmarshal(l.Event.Data, &o); err != nil {
			b.t.Fatal(err)
		}
		found, decoded = append(found, l), append(decoded, o)
	}
	return found, decoded
}

// one reads one value.
func one[T any](b *bench, sql string, args ...any) (value T) {
	b.t.Helper()
	if err := b.pool.QueryRow(b.t.Context(), sql, args...).Scan(&value); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// due returns when the saga's timer is; ok is false when it has none.
func (b *bench) due(id string) (at time.Time, ok bool) {
	b.t.Helper()
	err := b.pool.QueryRow(b.t.Context(), "select due_at from saga_live where saga_id = $1", id).Scan(&at)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		b.t.Fatal(err)
	}
	return at, err == nil
}

// rewrite makes that instance of a saga, at the revision it has.
func (b *bench) rewrite(id string, in saga.Instance) {
	b.t.Helper()
	b.exec("delete from saga_log where saga_id = $1", id)
	b.exec("insert into saga_log (saga_id, seq, day, entry) select id, revision, day, $2 from saga where id = $1", id, saga.WholeEntry(in))
	b.exec("update saga set snapshot = revision where id = $1", id)
}

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// logs is what engines have logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}
