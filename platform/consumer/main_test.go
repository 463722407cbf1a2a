package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// patience bounds what a test waits for that should come soon.
const patience = 20 * time.Second

const (
	name       = "stock" // of the consumer
	partitions = 4
)

// The contracts of the tests.
type (
	item   struct{ Name string }
	ticket struct{ Number int }
)

var (
	reserve  = events.NewCommand[item, ticket]("test.stock.reserve.v1", "out_of_stock")
	release  = events.NewCommand[item, events.None]("test.stock.release.v1")
	reserved = events.NewFact[item]("test.stock.reserved.v1")
)

// leaks checks for goroutines left over whenever no test holds a rig. It is here
// because embeddedtest.Main, which goleak would have to wrap, does not return.
var leaks struct {
	sync.Mutex
	rigs   int
	before goleak.Option
}

func watchLeaks(t *testing.T) {
	leaks.Lock()
	defer leaks.Unlock()
	if leaks.rigs++; leaks.before == nil {
		embeddedtest.Postgres(t) // the server's own goroutines stay
		leaks.before = goleak.IgnoreCurrent()
	}
	t.Cleanup(func() {
		leaks.Lock()
		defer leaks.Unlock()
		if leaks.rigs--; leaks.rigs == 0 {
			if err := goleak.Find(leaks.before, goleak.IgnoreAnyFunction("testing.tRunner")); err != nil {
				t.Error(err)
			}
		}
	})
}

// behaviour is what a handler does for an item before its own write.
type behaviour func(ctx context.Context, tx pgx.Tx, call int) error

// jetstream is what tests do to the broker behind its back.
type jetstream struct {
	publishRaw func(partition int, data []byte) error // to the topic of commands
	remove     func() error                           // the stream of that topic
}

// rig is a participant on a real database and a real broker. Its handlers write
// a row of the table effect for each item they handle.
type rig struct {
	t    *testing.T
	pool *pgxpool.Pool
	jetstream
	broker   broker.Broker
	commands *consumer.Commands
	logger   *slog.Logger
	wake     func()
	replies  broker.Reader
	facts    broker.Reader
	early    map[string][]events.Event // replies that nobody has asked for yet, by command

	mu         sync.Mutex
	behaviours map[string]behaviour // by verb and item
	calls      []string             // verb and item, in order
}

func setup(t *testing.T) *rig {
	t.Helper()
	watchLeaks(t)
	ctx := t.Context()
	pool := postgrestest.Open(t, postgres.Config{MaxConns: 20, Wait: patience},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()})
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	subject := func(partition int) string { return fmt.Sprintf("%s.%d", reserve.Topic(), partition) }
	behind := jetstream{
		publishRaw: func(partition int, data []byte) error {
			_, err := js.Publish(subject(partition), data)
			return err
		},
		remove: func() error {
			stream, err := js.StreamNameBySubject(subject(0))
			if err != nil {
				return err
			}
			return js.DeleteStream(stream)
		},
	}
	r := &rig{
		t: t, pool: pool, jetstream: behind, broker: b, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		early: make(map[string][]events.Event), behaviours: make(map[string]behaviour),
	}
	// A note of an effect that is not there fails at the commit.
	r.exec(`create table effect (id bigint generated always as identity, verb text not null, item text not null);
		create table stock (item text primary key);
		create table note (item text references stock deferrable initially deferred)`)
	relay := outbox.NewRelay(pool, b, outbox.RelayConfig{Name: name, Logger: r.logger, Poll: 20 * time.Millisecond})
	r.wake = relay.Wake
	r.commands = r.processor(r.wake, 3)
	if err := b.Ensure(ctx, append(r.commands.Topics(), events.Replies, reserved.Topic())...); err != nil {
		t.Fatal(err)
	}
	r.replies, r.facts = r.tail(events.Replies), r.tail(reserved.Topic())
	r.run(relay.Run)
	return r
}

func (r *rig) processor(wake func(), attemptsMax int, more ...consumer.Handler) *consumer.Commands {
	r.t.Helper()
	return r.processorOn(r.pool, wake, attemptsMax, more...)
}

func (r *rig) processorOn(pool *pgxpool.Pool, wake func(), attemptsMax int, more ...consumer.Handler) *consumer.Commands {
	r.t.Helper()
	return r.processorWith(pool, consumer.CommandsConfig{AttemptsMax: attemptsMax, Wake: wake}, more...)
}

func (r *rig) processorWith(pool *pgxpool.Pool, config consumer.CommandsConfig, more ...consumer.Handler) *consumer.Commands {
	r.t.Helper()
	config.Name, config.Logger = name, r.logger
	commands, err := consumer.NewCommands(pool, config, append(more, r.handlers()...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return commands
}

func (r *rig) handlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.Handle(reserve, func(ctx context.Context, tx pgx.Tx, request item) (ticket, error) {
			number, err := r.handle(ctx, tx, "reserve", request)
			return ticket{number}, err
		}),
		consumer.Handle(release, func(ctx context.Context, tx pgx.Tx, request item) (events.None, error) {
			_, err := r.handle(ctx, tx, "release", request)
			return events.None{}, err
		}),
	}
}

func (r *rig) handle(ctx context.Context, tx pgx.Tx, verb string, request item) (number int, err error) {
	call := verb + " " + request.Name
	r.mu.Lock()
	r.calls = append(r.calls, call)
	behave, n := r.behaviours[call], r.count(call)
	r.mu.Unlock()
	err = tx.QueryRow(ctx, "insert into effect (verb, item) values ($1, $2) returning id", verb, request.Name).Scan(&number)
	if err == nil && behave != nil {
		err = behave(ctx, tx, n)
	}
	return number, err
}

// on makes the handler of a verb behave in its own way for one item.
func (r *rig) on(call string, behave behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behaviours[call] = behave
}

func (r *rig) count(call string) (n int) {
	for _, c := range r.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (r *rig) called(call string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count(call)
}

// feed runs one process's share of the work and returns how to stop it.
func (r *rig) feed() (stop func()) { return r.feedWith(r.pool, consumer.FeedConfig{}) }

func (r *rig) feedWith(pool *pgxpool.Pool, config consumer.FeedConfig) (stop func()) {
	r.t.Helper()
	config.Name, config.Topics, config.Logger = name, r.commands.Topics(), r.logger
	config.BackoffMin, config.Balance = 5*time.Millisecond, 50*time.Millisecond
	feed, err := consumer.NewFeed(pool, r.broker, r.commands, config)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.run(feed.Run)
}

// run runs a loop until it is stopped, at the latest by the end of the test.
func (r *rig) run(loop func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := loop(ctx); err != nil {
			r.t.Error(err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) tail(topic events.Topic) broker.Reader {
	r.t.Helper()
	reader, err := r.broker.Tail(r.t.Context(), topic)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(reader.Close)
	return reader
}

// key returns a key of that partition.
func key(partition int) string {
	for n := 0; ; n++ {
		if k := fmt.Sprint("key-", n); broker.Partition(k, partitions) == partition {
			return k
		}
	}
}

// command returns a command for an item, addressed as the engine does it.
func command[R any](t *testing.T, contract events.Command[item, R], partition int, of string) events.Event {
	t.Helper()
	e, err := contract.New(events.NewID(), "/sagas/test", item{of}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e.CorrelationID, e.PartitionKey, e.ReplyTo = key(partition), key(partition), string(events.Replies)
	return e
}

// undo returns the command that undoes another.
func undo(t *testing.T, of events.Event, name string) events.Event {
	t.Helper()
	e := command(t, release, broker.Partition(of.PartitionKey, partitions), name)
	e.Undoes = of.ID
	return e
}

// send publishes commands in order, each with a fresh publish id.
func (r *rig) send(all ...events.Event) {
	r.t.Helper()
	messages := make([]broker.Message, len(all))
	for i, e := range all {
		messages[i] = broker.Message{Topic: reserve.Topic(), PublishID: events.NewID(), Event: e}
	}
	for _, receipt := range r.broker.PublishBatch(r.t.Context(), messages) {
		if receipt.Err != nil || receipt.Duplicate {
			r.t.Fatalf("receipt %+v", receipt)
		}
	}
}

// reply waits for the next reply to a command; the code is empty when it is a
// positive one.
func (r *rig) reply(e events.Event) (number int, code events.Code) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for len(r.early[e.ID]) == 0 {
		deliveries, err := r.replies.Next(ctx, 100)
		if err != nil {
			r.t.Fatalf("no reply to %s %s: %v", e.Type, e.Data, err)
		}
		for _, d := range deliveries {
			r.early[d.Event.CausationID] = append(r.early[d.Event.CausationID], d.Event)
		}
	}
	got := r.early[e.ID][0]
	r.early[e.ID] = r.early[e.ID][1:]
	if got.ID != events.DeriveID(e.ID, "reply") || got.Source != "/"+name || got.PartitionKey != e.PartitionKey {
		r.t.Errorf("reply %+v", got)
	}
	commandType, rejected, ok := events.ReplyOf(&got)
	if !ok || commandType != e.Type {
		r.t.Fatalf("%s is no reply to %s", got.Type, e.Type)
	}
	var into struct {
		Number int
		Code   events.Code
	}
	if len(got.Data) > 0 {
		if err := json.Unmarshal(got.Data, &into); err != nil {
			r.t.Fatal(err)
		}
	}
	if rejected && into.Code == "" {
		r.t.Errorf("rejection without a code: %s", got.Data)
	}
	return into.Number, into.Code
}

// wantReply fails the test when the next reply to e is another one.
func (r *rig) wantReply(e events.Event, want events.Code) (number int) {
	r.t.Helper()
	number, code := r.reply(e)
	if code != want {
		r.t.Errorf("reply to %s %s has the code %q, want %q", e.Type, e.Data, code, want)
	}
	return number
}

// wantSilence fails the test when there is another reply to e by now.
func (r *rig) wantSilence(e events.Event) {
	r.t.Helper()
	r.pass(broker.Partition(e.PartitionKey, partitions))
	if n := len(r.early[e.ID]); n > 0 {
		r.t.Errorf("%d replies to %s %s that should not be", n, e.Type, e.Data)
	}
}

// pass returns when everything that was sent to a partition has been handled and
// published.
func (r *rig) pass(partition int) {
	r.t.Helper()
	last := command(r.t, reserve, partition, "pass")
	r.send(last)
	r.wantReply(last, "")
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pool.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// read returns the single value of a query.
func read[T any](r *rig, query string, args ...any) (value T) {
	r.t.Helper()
	if err := r.pool.QueryRow(r.t.Context(), query, args...).Scan(&value); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return value
}

// await waits until a condition holds.
func (r *rig) await(what string, holds func() bool) {
	r.t.Helper()
	for limit := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			r.t.Fatalf("never came: %s", what)
		}
	}
}

// wantEffects fails the test when the rows of effect are others; order matters.
func (r *rig) wantEffects(want ...string) {
	r.t.Helper()
	rows, _ := r.pool.Query(r.t.Context(), "select verb || ' ' || item from effect where item <> 'pass' order by id")
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("effects %q, want %q", got, want)
	}
}

func (r *rig) wantCalls(call string, want int) {
	r.t.Helper()
	if got := r.called(call); got != want {
		r.t.Errorf("the handler was called %d times for %s, want %d", got, call, want)
	}
}

// letter is a row of dead_letter.
type letter struct {
	Type, Error string
	Attempts    int
}

// letters waits for n dead letters and returns them, in the order they died.
func (r *rig) letters(n int) []letter {
	r.t.Helper()
	r.await(fmt.Sprint(n, " dead letters"), func() bool { return read[int](r, "select count(*) from dead_letter") >= n })
	rows, _ := r.pool.Query(r.t.Context(), "select event_type, error, attempts from dead_letter order by id")
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[letter])
	if err != nil || len(got) != n {
		r.t.Fatalf("%d dead letters, %v", len(got), err)
	}
	return got
}

// process runs one batch of commands, all in one transaction, without a broker.
func (r *rig) process(all ...events.Event) (*consumer.Batch, error) {
	r.t.Helper()
	positions := make(map[consumer.Source]uint64)
	deliveries := make([]broker.Delivery, len(all))
	for i, e := range all {
		partition := broker.Partition(e.PartitionKey, partitions)
		deliveries[i] = broker.Delivery{Topic: reserve.Topic(), Partition: partition, Offset: uint64(i + 1), Event: e}
		positions[consumer.Source{Topic: reserve.Topic(), Partition: partition}] = 0
	}
	for source := range positions {
		r.exec(`insert into consumer_position (consumer, topic, partition, epoch, handled) values ($1, $2, $3, 'test', 0)
			on conflict (consumer, topic, partition) do update set handled = 0`, name, string(source.Topic), source.Partition)
	}
	batch := consumer.NewBatch(name, positions, deliveries...)
	return batch, r.commands.Process(r.t.Context(), batch)
}

var errFlaky = errors.New("flaky")
