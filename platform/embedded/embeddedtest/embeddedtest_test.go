package embeddedtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
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

// TestTablesAreReusedOnlyAsGoodAsNew follows one database with tables through tests.
func TestTablesAreReusedOnlyAsGoodAsNew(t *testing.T) {
	made := 0
	create := func(ctx context.Context, url string) error {
		made++
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		_, err = conn.Exec(ctx, `CREATE SEQUENCE lone;
			CREATE TABLE a (id serial PRIMARY KEY, what text);
			CREATE TABLE b (a int REFERENCES a);
			CREATE TABLE p (at int) PARTITION BY RANGE (at);
			CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
			CREATE TABLE version (id serial, n int);
			INSERT INTO version (n) VALUES (7);
			CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`)
		return err
	}
	use := func(name string, again bool, statement string) {
		t.Run(name, func(t *testing.T) {
			before := made
			conn, err := pgx.Connect(t.Context(), PostgresWith(t, "abc", create))
			if err != nil {
				t.Fatal(err)
			}
			var got string
			if err := conn.QueryRow(t.Context(), `SELECT concat_ws(' ', (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT count(*) FROM p),
				(SELECT sum(n) FROM version), f(), nextval('lone'), nextval('a_id_seq'),
				(SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace))`).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if want := "0 0 0 7 1 1 1 a,b,p,p1,version"; got != want {
				t.Errorf("it has %q, want %q", got, want)
			}
			if (made == before) != again {
				t.Errorf("the tables of the test before are used again: %t, want %t", made == before, again)
			}
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		})
	}
	use("the first one", false, "INSERT INTO a (what) VALUES ('x'), ('y'); INSERT INTO b VALUES (2); INSERT INTO p VALUES (3); SELECT nextval('lone')")
	use("rows", true, "CREATE TABLE c (id serial, a int REFERENCES a); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)")
	use("later tables", true, "TRUNCATE b; DELETE FROM a; INSERT INTO a (what) VALUES ('x'); DELETE FROM a")
	use("no rows", true, "SELECT nextval('version_id_seq')")
	use("a sequence of old", false, "UPDATE version SET n = 8")
	use("rows at first", false, "ALTER TABLE a ADD more int")
	use("a column", false, "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'")
	use("a function", false, "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()")
	use("a trigger", false, "ALTER TABLE b DROP CONSTRAINT b_a_fkey")
	use("a constraint", false, "CREATE INDEX ON b (a)")
	use("an index", false, "ALTER TABLE p DETACH PARTITION p1")
	use("a partition", false, "ANALYZE version")
	use("statistics", false, "DROP TABLE p")
	use("a table", false, "ALTER TABLE a SET (fillfactor = 50)")
	use("a setting", false, "GRANT SELECT ON a TO PUBLIC")
	use("a privilege", false, "CREATE SCHEMA s")
	use("a schema", false, "ALTER SEQUENCE lone INCREMENT 2")
	use("a sequence", false, "")
}

func TestTablesThatCannotBeMadeAreToldOf(t *testing.T) {
	var d databases
	admin, err := shared.adminURL()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.take(t.Context(), admin, "broken", func(context.Context, string) error { return errors.New("no such file") }); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v", err)
	}
	if len(d.free["broken"]) > 0 {
		t.Error("a database without its tables is kept")
	}
}

func TestPostgresNeedsMain(t *testing.T) {
	if _, err := new(sharedServer).adminURL(); err == nil || !strings.Contains(err.Error(), "embeddedtest.Main(m)") {
		t.Errorf("without Main: %v", err)
	}
}

func TestServerFromEnvironment(t *testing.T) {
	setURL(t, "postgres://user@host/postgres")
	t.Setenv(DatabaseServerEnv, "PostgreSQL 14.1")
	s := &sharedServer{allowed: true}
	if got, err := s.adminURL(); got != "postgres://user@host/postgres" || err != nil {
		t.Errorf("URL %q, %v", got, err)
	}
	if err := s.close(); err != nil {
		t.Errorf("close of a server that is not ours: %v", err)
	}
}

// setURL is t.Setenv, which reads the old value so that the test cache sees it.
func setURL(t *testing.T, url string) {
	t.Helper()
	before, set := syscall.Getenv(DatabaseURLEnv)
	if err := syscall.Setenv(DatabaseURLEnv, url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Unsetenv(DatabaseURLEnv)
		if set {
			syscall.Setenv(DatabaseURLEnv, before)
		}
	})
}

// TestTheCacheSeesTheServerAndNotItsAddress reads what this binary, in another process,
// tells go test of its inputs.
func TestTheCacheSeesTheServerAndNotItsAddress(t *testing.T) {
	url, err := shared.adminURL()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for version, sees := range map[string]bool{"": true, "PostgreSQL 14.1": false} {
		log := filepath.Join(t.TempDir(), "inputs")
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestPostgresGivesFreshDatabasesAndTakesThemBack$", "-test.testlogfile="+log)
		cmd.Env = append(os.Environ(), DatabaseURLEnv+"="+url, DatabaseServerEnv+"="+version)
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		inputs, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(inputs), "getenv "+DatabaseServerEnv+"\n") {
			t.Errorf("with the version %q it does not see the version", version)
		}
		if got := strings.Contains(string(inputs), "getenv "+DatabaseURLEnv+"\n"); got != sees {
			t.Errorf("with the version %q it sees the URL: %v, want %v", version, got, sees)
		}
	}
}

func TestMissingServerIsAnErrorEveryTime(t *testing.T) {
	setURL(t, "")
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
