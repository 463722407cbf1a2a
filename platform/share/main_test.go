package share_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/share"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// open returns a pool on a fresh database and fails the test that leaves a
// goroutine behind.
func open(t *testing.T) *pgxpool.Pool {
	t.Helper()
	url := embeddedtest.Postgres(t)
	leaks := goleak.IgnoreCurrent()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pool.Close()
		goleak.VerifyNone(t, leaks)
	})
	return pool
}

// member is a process that takes part.
type member struct {
	*share.Division
	conn *pgx.Conn
}

func join(t *testing.T, pool *pgxpool.Pool, name string, items int) *member {
	t.Helper()
	conn, err := share.Connect(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	division, err := share.Join(t.Context(), conn, name, items)
	if err != nil {
		t.Fatal(err)
	}
	return &member{division, conn}
}

// balance does what a process does now and then, and reports whether it took any.
func (m *member) balance(t *testing.T) bool {
	t.Helper()
	surplus, err := m.Surplus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Release(t.Context(), surplus); err != nil {
		t.Fatal(err)
	}
	taken, err := m.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

// leave ends a member and waits until the server has noticed.
func (m *member) leave(t *testing.T, other *member) {
	t.Helper()
	pid := m.conn.PgConn().PID()
	if err := m.conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for there := true; there; {
		err := other.conn.QueryRow(t.Context(), "select exists(select from pg_locks where pid = $1)", pid).Scan(&there)
		if err != nil {
			t.Fatal(err)
		}
	}
}
