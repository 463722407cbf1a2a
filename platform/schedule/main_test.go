package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

// childEnv makes the test binary a scheduler on that database, to be killed.
const childEnv = "COUNTERMAND_SCHEDULE_CHILD"

func TestMain(m *testing.M) {
	if url := os.Getenv(childEnv); url != "" {
		if err := runChild(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	embeddedtest.Main(m)
}

func runChild(url string) error {
	pool, err := postgres.Open(context.Background(), postgres.Config{URL: url, ApplicationName: "child"})
	if err != nil {
		return err
	}
	s, err := New(pool, config(pool))
	if err != nil {
		return err
	}
	fmt.Println("running")
	return s.Run(context.Background())
}

type (
	order  struct{ Items []string }
	report struct{ Day string }
)

var (
	checkout = events.NewCommand[order, events.None]("shop.checkout.request.v1")
	mail     = events.NewCommand[report, events.None]("shop.mail.send.v1")
)

// config is that of all schedulers in these tests. Which sagas there are, and
// whether they have ended, stands in the table saga.
func config(pool *pgxpool.Pool) Config {
	return Config{
		Commands: []Command{Starts(checkout), Sends(mail)},
		Poll:     5 * time.Millisecond,
		Ended: func(ctx context.Context, ids []string) (map[string]bool, error) {
			rows, err := pool.Query(ctx, "select id::text, status = 'completed' from saga where id = any($1::uuid[])", ids)
			if err != nil {
				return nil, err
			}
			known := make(map[string]bool)
			var (
				id    string
				ended bool
			)
			_, err = pgx.ForEachRow(rows, []any{&id, &ended}, func() error { known[id] = ended; return nil })
			return known, err
		},
		Logger: slog.New(slog.DiscardHandler),
	}
}

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

// rig is a database with a clock that stands still until it is set.
type rig struct {
	t    *testing.T
	url  string
	pool *pgxpool.Pool
}

// setup makes a database whose clock shows dawn. Our clock_timestamp comes before
// the server's on the search path.
func setup(t *testing.T) *rig {
	t.Helper()
	watchLeaks(t)
	url := postgrestest.URL(t,
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "schedule", FS: Migrations()},
		postgres.MigrationSet{Owner: "test", FS: fstest.MapFS{"migrations/0001_clock.sql": {Data: []byte(`-- +goose Up
create table saga (id uuid primary key, status text not null);
create table clock (at timestamptz not null);
create function public.clock_timestamp() returns timestamptz language sql volatile as 'select at from clock';
`)}}})
	r := &rig{t: t, url: url + "&search_path=public,pg_catalog"}
	r.pool = r.open("test")
	r.exec(`insert into clock values ($1)`, dawn)
	return r
}

func (r *rig) open(application string) *pgxpool.Pool {
	r.t.Helper()
	pool, err := postgres.Open(r.t.Context(), postgres.Config{URL: r.url, ApplicationName: application, MaxConns: 4})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pool.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// set moves the clock to that time after dawn.
func (r *rig) set(after time.Duration) {
	r.t.Helper()
	r.exec("update clock set at = $1", dawn.Add(after))
}

// scheduler returns one that does nothing by itself.
func (r *rig) scheduler() *Scheduler {
	r.t.Helper()
	pool := r.open("scheduler")
	s, err := New(pool, config(pool))
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// run runs a scheduler in this process until the test or stop ends it.
func (r *rig) run(s *Scheduler) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
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

// spawn runs a scheduler in a process of its own, which kill ends with SIGKILL.
func (r *rig) spawn() (kill func()) {
	r.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(executable)
	cmd.Env = append(os.Environ(), childEnv+"="+r.url)
	cmd.Stderr = r.t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		r.t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	r.t.Cleanup(kill)
	return kill
}

// settled waits until nothing is due any more.
func (r *rig) settled() {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		var due int
		if err := r.pool.QueryRow(r.t.Context(), "select count(*) from schedule where due_at <= clock_timestamp()").Scan(&due); err != nil {
			r.t.Fatal(err)
		}
		if due == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d schedules are still due", due)
		}
	}
}

// command is what a firing has put into the outbox.
type command struct {
	events.Event
	topic, publishID string
}

func (r *rig) sent() []command {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), "select topic, publish_id, attributes, data from outbox order by id")
	if err != nil {
		r.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (command, error) {
		var (
			c                command
			attributes, data []byte
		)
		if err := row.Scan(&c.topic, &c.publishID, &attributes, &data); err != nil {
			return c, err
		}
		c.Event, err = events.ParseAttributes(attributes, data)
		c.publishID = outbox.PublishID(c.publishID, &c.Event)
		return c, err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
