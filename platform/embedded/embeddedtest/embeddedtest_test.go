package embeddedtest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestMain(m *testing.M) { Main(m) }

func TestPostgresGivesFreshDatabasesAndTakesThemBack(t *testing.T) {
	var mu sync.Mutex
	urls := map[string]bool{}
	t.Run("tests", func(t *testing.T) {
		for range 4 {
			t.Run("use", func(t *testing.T) {
				t.Parallel()
				url := Postgres(t)
				pool, err := pgxpool.New(t.Context(), url)
				if err != nil {
					t.Fatal(err)
				}
				// The pool stays open: the database is gone all the same.
				if _, err := pool.Exec(t.Context(), "CREATE TABLE orders (id int)"); err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				urls[url] = true
			})
		}
	})
	if len(urls) != 4 {
		t.Errorf("%d databases for 4 tests", len(urls))
	}
	for url := range urls {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			conn.Close(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), "3D000") {
			t.Errorf("connect to a database of a test that has ended: %v", err)
		}
	}
}

// TestADatabaseIsReusedOnlyAsGoodAsNew follows one database through tests.
func TestADatabaseIsReusedOnlyAsGoodAsNew(t *testing.T) {
	var last uint32
	use := func(name string, again bool, statement string) {
		t.Run(name, func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), Postgres(t))
			if err != nil {
				t.Fatal(err)
			}
			var id uint32
			var things []string
			if err := conn.QueryRow(t.Context(), `SELECT oid,
				(SELECT coalesce(array_agg(n.nspname || '.' || c.relname), '{}') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
					WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
				|| (SELECT coalesce(array_agg(nspname), '{}') FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public'))
				FROM pg_database WHERE datname = current_database()`).Scan(&id, &things); err != nil {
				t.Fatal(err)
			}
			if len(things) > 0 {
				t.Errorf("it has %q", things)
			}
			if last != 0 && (id == last) != again {
				t.Errorf("the database of the test before is used again: %t, want %t", id == last, again)
			}
			last = id
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		})
	}
	use("tables", true, "CREATE TABLE a (id serial); CREATE SCHEMA s; CREATE TABLE s.b (id int); CREATE TYPE s.t AS ENUM ('x')")
	use("settings", true, "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET work_mem = 65536'; END $$")
	use("privileges", false, "DO $$ BEGIN EXECUTE 'REVOKE CONNECT ON DATABASE ' || current_database() || ' FROM PUBLIC'; END $$")
	use("public schema", false, "DROP SCHEMA public")
	use("the last one", true, "CREATE TABLE public.a (id int)")
}

func TestPostgresNeedsMain(t *testing.T) {
	if _, err := new(sharedServer).adminURL(); err == nil || !strings.Contains(err.Error(), "embeddedtest.Main(m)") {
		t.Errorf("without Main: %v", err)
	}
}

func TestServerFromEnvironment(t *testing.T) {
	t.Setenv(DatabaseURLEnv, "postgres://user@host/postgres")
	s := &sharedServer{allowed: true}
	if got, err := s.adminURL(); got != "postgres://user@host/postgres" || err != nil {
		t.Errorf("URL %q, %v", got, err)
	}
	if err := s.close(); err != nil {
		t.Errorf("close of a server that is not ours: %v", err)
	}
}

func TestMissingServerIsAnErrorEveryTime(t *testing.T) {
	t.Setenv(DatabaseURLEnv, "")
	t.Setenv("COUNTERMAND_POSTGRES_BIN", t.TempDir())
	s := &sharedServer{allowed: true}
	for range 2 {
		if _, err := s.adminURL(); err == nil || !strings.Contains(err.Error(), "COUNTERMAND_POSTGRES_BIN") {
			t.Errorf("no server: %v", err)
		}
	}
}

func TestWithDatabase(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:p%2F@h:1/postgres?sslmode=disable": "postgres://u:p%2F@h:1/db?sslmode=disable",
		"postgresql://u@/x?dbname=y&host=%2Frun":         "postgresql://u@/db?host=%2Frun",
		"host=localhost user=x":                          "",
		"mysql://u@h/x":                                  "",
		"postgres://u:secret@[":                          "",
	} {
		got, err := withDatabase(in, "db")
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", in, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", in, err)
		}
	}
}

func TestNATS(t *testing.T) {
	a, b := NATS(t), NATS(t, Sync(), Listen())
	if a.URL() != "" {
		t.Errorf("listens unasked on %s", a.URL())
	}
	over, err := nats.Connect(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	js, err := jetstream.New(over)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", nil); err != nil {
		t.Fatal(err)
	}
}
