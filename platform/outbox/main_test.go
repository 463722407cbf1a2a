package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// patience bounds what a test waits for that should come soon.
const patience = 20 * time.Second

const topic events.Topic = "test.things.events"

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

// rig is an outbox in a database of its own.
type rig struct {
	t   *testing.T
	url string
	*pgxpool.Pool
	broker *fakeBroker
}

func setup(t *testing.T) *rig {
	t.Helper()
	watchLeaks(t)
	r := &rig{t: t, url: postgrestest.URL(t, postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}), broker: &fakeBroker{}}
	r.Pool = r.open("writer")
	return r
}

func (r *rig) open(application string) *pgxpool.Pool {
	r.t.Helper()
	pool, err := postgres.Open(r.t.Context(), postgres.Config{URL: r.url, ApplicationName: application, MaxConns: 10})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

// relay runs a relay as a process of that name does, and returns how to stop it.
func (r *rig) relay(process string, config outbox.RelayConfig) (relay *outbox.Relay, stop func()) {
	return r.relayTo(process, r.broker, config)
}

func (r *rig) relayTo(process string, publisher broker.Publisher, config outbox.RelayConfig) (relay *outbox.Relay, stop func()) {
	r.t.Helper()
	config.Name, config.Logger = process, slog.New(slog.NewTextHandler(r.t.Output(), nil))
	if config.Poll == 0 {
		config.Poll = 10 * time.Millisecond
	}
	if config.Balance == 0 {
		config.Balance = 20 * time.Millisecond
	}
	relay = outbox.NewRelay(r.open(process), publisher, config)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := relay.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	r.t.Cleanup(stop)
	return relay, stop
}

// kill ends the connections of a process.
func (r *rig) kill(process string) {
	r.t.Helper()
	if n := read[int](r, `select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and application_name = $1`, process); n == 0 {
		r.t.Errorf("%s has no connections", process)
	}
}

// lanes returns how many lanes a process owns.
func (r *rig) lanes(process string) int {
	return max(0, read[int](r, `select count(*) from pg_locks join pg_stat_activity using (pid)
		where locktype = 'advisory' and datname = current_database() and application_name = $1`, process)-1) // one as a member
}

// message returns the message of that id and key.
func message(key, id string) broker.Message {
	return broker.Message{Topic: topic, PublishID: id, Event: events.Event{
		ID: id, Source: "/test", Type: "test.things.made.v1", PartitionKey: key, Time: time.Unix(1, 0).UTC(),
		DataContentType: "application/json", Data: []byte(`"` + id + `"`),
	}}
}

// series returns n messages of a key, named key/0000 and so on.
func series(key string, from, to int) (all []broker.Message) {
	for n := from; n < to; n++ {
		all = append(all, message(key, fmt.Sprintf("%s/%04d", key, n)))
	}
	return all
}

func (r *rig) write(messages ...broker.Message) {
	r.t.Helper()
	err := pgx.BeginFunc(r.t.Context(), r, func(tx pgx.Tx) error { return outbox.Write(r.t.Context(), tx, messages...) })
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) begin() pgx.Tx {
	r.t.Helper()
	tx, err := r.Begin(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func (r *rig) in(tx pgx.Tx, sql string, args ...any) {
	r.t.Helper()
	if _, err := tx.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) writeIn(tx pgx.Tx, id string) {
	r.t.Helper()
	if err := outbox.Write(r.t.Context(), tx, message("k", id)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) commit(tx pgx.Tx) {
	r.t.Helper()
	if err := tx.Commit(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func read[T any](r *rig, query string, args ...any) (value T) {
	r.t.Helper()
	if err := r.QueryRow(r.t.Context(), query, args...).Scan(&value); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return value
}

func (r *rig) await(what string, holds func() bool) {
	r.t.Helper()
	for limit := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			r.t.Fatalf("never came: %s; %d rows are left, stored %q", what, read[int](r, "select count(*) from outbox"), r.broker.first())
		}
	}
}

// awaitEmpty waits until everything is published and deleted.
func (r *rig) awaitEmpty() {
	r.t.Helper()
	r.await("an empty outbox", func() bool { return read[int](r, "select count(*) from outbox") == 0 })
}

// wantStored fails the test when the broker's first occurrences are others.
func (r *rig) wantStored(want ...string) {
	r.t.Helper()
	if got := r.broker.first(); !slices.Equal(got, want) {
		r.t.Errorf("published %q, want %q", got, want)
	}
}

// wantOrder fails the test when the first occurrences of a key are out of order
// or not that many.
func (r *rig) wantOrder(perKey int) {
	r.t.Helper()
	last, count := make(map[string]string), make(map[string]int)
	for _, id := range r.broker.first() {
		key, _, _ := strings.Cut(id, "/")
		if id <= last[key] {
			r.t.Errorf("%s came after %s", id, last[key])
		}
		last[key] = id
		count[key]++
	}
	for key, n := range count {
		if n != perKey {
			r.t.Errorf("%d messages of %s, want %d", n, key, perKey)
		}
	}
}

// fakeBroker stores messages in memory and knows no duplicates, as a broker whose
// window has passed. Its answers can be bent.
type fakeBroker struct {
	mu     sync.Mutex
	stored []string
	// refuse returns why a message is not stored; nil for one that is.
	refuse func(m broker.Message) error
	// after runs when a batch has been stored, before the relay learns of it.
	after   func()
	batches [][]string // as they came
}

// PublishBatch implements [broker.Publisher].
func (b *fakeBroker) PublishBatch(_ context.Context, messages []broker.Message) []broker.Receipt {
	b.mu.Lock()
	defer b.mu.Unlock()
	receipts := make([]broker.Receipt, len(messages))
	var (
		failed error
		batch  []string
	)
	for i, m := range messages {
		batch = append(batch, m.PublishID)
		if failed != nil {
			receipts[i].Err = fmt.Errorf("%w: an earlier message of the batch is not stored", broker.ErrUnavailable)
			continue
		}
		if b.refuse != nil {
			failed = b.refuse(m)
		}
		if receipts[i].Err = failed; failed == nil {
			b.stored = append(b.stored, m.PublishID)
		}
	}
	b.batches = append(b.batches, batch)
	if b.after != nil {
		b.after()
	}
	return receipts
}

// bend changes the broker's answers.
func (b *fakeBroker) bend(refuse func(m broker.Message) error, after func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse, b.after = refuse, after
}

// all returns what is stored, in order, with duplicates.
func (b *fakeBroker) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.stored)
}

// first returns the first occurrences of what is stored.
func (b *fakeBroker) first() (ids []string) {
	seen := make(map[string]bool)
	for _, id := range b.all() {
		if !seen[id] {
			ids = append(ids, id)
		}
		seen[id] = true
	}
	return ids
}
