//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func startTest(t *testing.T, cfg PostgresConfig) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopTest(t, p) })
	return p
}

func stopTest(t *testing.T, p *Postgres) {
	t.Helper()
	if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// exec1 runs statements on a connection of their own.
func exec1(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func mustExec(t *testing.T, url string, statements ...string) {
	t.Helper()
	if err := exec1(t.Context(), url, statements...); err != nil {
		t.Fatal(err)
	}
}

// queryText returns the one value that a query has as text.
func queryText(t *testing.T, url, query string) string {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var value string
	if err := pool.QueryRow(t.Context(), query).Scan(&value); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

func TestRestartKeepsDataAndSettings(t *testing.T) {
	t.Parallel()
	cfg := PostgresConfig{DataDir: openTempDir(t), Settings: map[string]string{"work_mem": "7MB"}}
	p := startTest(t, cfg)
	mustExec(t, p.AdminURL(),
		"CREATE ROLE clerk LOGIN PASSWORD 'p@ss/w:rd #1'",
		"CREATE DATABASE shop OWNER clerk")
	clerk := p.URL("shop", "clerk", "p@ss/w:rd #1")
	mustExec(t, clerk, "CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1), (2)")
	if err := exec1(t.Context(), p.URL("shop", "clerk", "wrong")); err == nil {
		t.Error("connected with a wrong password")
	}
	if err := exec1(t.Context(), p.URL("shop", "clerk", "")); err == nil {
		t.Error("connected without a password")
	}
	for setting, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
		"max_connections": "200", "max_wal_size": "4GB", "jit": "off", "TimeZone": "UTC",
		"listen_addresses": "", "work_mem": "7MB", "server_encoding": "UTF8",
	} {
		if got := queryText(t, p.AdminURL(), "SHOW "+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	if got := queryText(t, p.AdminURL(), "SHOW wal_compression"); got == "off" { // its name depends on the version
		t.Error("full pages are not compressed")
	}
	stopTest(t, p)
	stopTest(t, p)
	select {
	case <-p.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if err := p.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}

	again := startTest(t, cfg)
	clerk = again.URL("shop", "clerk", "p@ss/w:rd #1")
	if got := queryText(t, clerk, "SELECT count(*)::text FROM orders"); got != "2" {
		t.Errorf("%s rows after the restart, want 2", got)
	}

	// A stop without time to stop in order loses nothing that was committed.
	mustExec(t, clerk, "INSERT INTO orders VALUES (3)")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := again.Stop(ended); err != nil {
		t.Fatal(err)
	}
	third := startTest(t, cfg)
	if got := queryText(t, third.URL("shop", "clerk", "p@ss/w:rd #1"), "SELECT count(*)::text FROM orders"); got != "3" {
		t.Errorf("%s rows after a hasty stop, want 3", got)
	}
}

func TestLongPathWithSpaces(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openTempDir(t), "a folder, with 'spaces'", strings.Repeat("long/", 40)+"end")
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	if got := queryText(t, p.AdminURL(), "SHOW fsync"); got != "off" {
		t.Errorf("fsync is %q without sync", got)
	}
	u, err := url.Parse(p.AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	socketDir := u.Query().Get("host")
	if strings.HasPrefix(socketDir, dir) {
		t.Errorf("socket folder %q lies in the data folder %q", socketDir, dir)
	}
	if _, err := os.Stat(socketDir); err != nil {
		t.Error(err)
	}
	stopTest(t, p)
	if _, err := os.Stat(socketDir); err == nil {
		t.Errorf("socket folder %q is left after Stop", socketDir)
	}
}

func TestSocketFits(t *testing.T) {
	for dir, want := range map[string]bool{
		"/tmp/countermand-test-1/run":        true,
		"/a folder":                          false,
		"/one,two":                           false,
		"/it's":                              false,
		"/" + strings.Repeat("x", 85):        true,
		"/" + strings.Repeat("x", 86):        false,
		"/\u00fcber":                         false,
		"/var/folders/zz/a_b+c=d/T/data/run": true,
	} {
		if got := fitsSocket(dir); got != want {
			t.Errorf("%q fits: %v, want %v", dir, got, want)
		}
	}
}

func TestStartErrors(t *testing.T) {
	if _, err := StartPostgres(t.Context(), PostgresConfig{}); err == nil {
		t.Error("started without a data directory")
	}

	dir := openTempDir(t)
	ended, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the reason")
	cancel(reason)
	if _, err := StartPostgres(ended, PostgresConfig{DataDir: dir, NoSync: true}); !errors.Is(err, reason) {
		t.Errorf("start with an ended context: %v", err)
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir, NoSync: true, Settings: map[string]string{"no_such": "x"}})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such"`) {
		t.Errorf("start with an unknown setting: %v, want the server's own words", err)
	}
	// After all that the folder is free and the database made.
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	bin := queryText(t, p.AdminURL(), "SELECT setting FROM pg_config WHERE name = 'BINDIR'")
	stopTest(t, p)

	t.Setenv(binEnv, t.TempDir())
	if _, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir}); err == nil || !strings.Contains(err.Error(), binEnv) {
		t.Errorf("start with an empty %s: %v", binEnv, err)
	}
	t.Setenv(binEnv, bin)
	version := filepath.Join(dir, "pgdata", "PG_VERSION")
	if err := os.WriteFile(version, []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "cannot open a database of version 99") {
		t.Errorf("start on another version's database: %v", err)
	}
	if err := os.Remove(version); err != nil {
		t.Fatal(err)
	}
	if _, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "holds no PostgreSQL cluster") {
		t.Errorf("start on a folder that is no database: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pgdata", "base")); err != nil {
		t.Errorf("a refused start touched the database: %v", err)
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	t.Parallel()
	dir := openTempDir(t)
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	if _, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("second start in this process: %v, want ErrInUse", err)
	}
	if err := RemovePostgres(t.Context(), dir); !errors.Is(err, ErrInUse) {
		t.Errorf("remove beside the owner: %v, want ErrInUse", err)
	}
	other := startHelper(t, "try-postgres", dir)
	if got, want := other.line(t), fmt.Sprintf("refused: in use by process %d", os.Getpid()); got != want {
		t.Errorf("second process: %q, want %q", got, want)
	}
	queryText(t, p.AdminURL(), "SHOW fsync")

	stopTest(t, p)
	for range 2 {
		if err := RemovePostgres(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Fatal("the folder is there after RemovePostgres")
		}
	}
}
