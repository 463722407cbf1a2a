package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from note`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func insert(ctx context.Context, id int) func(pgx.Tx) error {
	return func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into note (id) values ($1)`, id)
		return err
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{MaxConns: 2})
	exec(t, pool, `create table note (id int primary key deferrable initially deferred)`)
	ctx := t.Context()

	if err := postgres.InTx(ctx, pool, insert(ctx, 1)); err != nil {
		t.Fatal(err)
	}

	no := errors.New("no")
	err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		return errors.Join(insert(ctx, 2)(tx), no)
	})
	if !errors.Is(err, no) {
		t.Errorf("error of the function is lost: %v", err)
	}

	func() {
		defer func() {
			if recover() == nil {
				t.Error("panic is lost")
			}
		}()
		_ = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
			_ = insert(ctx, 3)(tx)
			panic("no")
		})
	}()

	cancelled, cancel := context.WithCancel(ctx)
	err = postgres.InTx(cancelled, pool, func(tx pgx.Tx) error {
		defer cancel()
		return insert(ctx, 4)(tx)
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, postgres.ErrCommitUnknown) || postgres.IsRetryable(err) {
		t.Errorf("cancelled before commit: %v", err)
	}

	// The deferred constraint makes the COMMIT itself fail, with an answer.
	err = postgres.InTx(ctx, pool, insert(ctx, 1))
	var serverErr *pgconn.PgError
	if !errors.As(err, &serverErr) || errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("commit refused by the server: %v", err)
	}

	// An error that do swallows aborts the transaction all the same.
	err = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, _ = tx.Exec(ctx, `select 1/0`)
		return nil
	})
	if !errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, postgres.ErrCommitUnknown) {
		t.Errorf("commit of an aborted transaction: %v", err)
	}

	// So does a connection that is gone by then; nothing was sent.
	err = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		return tx.Conn().Close(ctx)
	})
	if !postgres.IsRetryable(err) {
		t.Errorf("commit on a closed connection: %v", err)
	}

	if got := count(t, pool); got != 1 {
		t.Errorf("%d rows, want the 1 that was committed", got)
	}
	if stat := pool.Stat(); stat.AcquiredConns() != 0 || stat.NewConnsCount() != 2 {
		t.Errorf("%d connections held, %d made, want 0 and 2", stat.AcquiredConns(), stat.NewConnsCount())
	}
}

func TestInTxSavepoint(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{})
	exec(t, pool, `create table note (id int primary key)`)
	ctx := t.Context()
	err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		if err := postgres.InTx(ctx, tx, insert(ctx, 1)); err != nil {
			return err
		}
		if err := postgres.InTx(ctx, tx, insert(ctx, 1)); err == nil {
			t.Error("duplicate was taken")
		}
		return postgres.InTx(ctx, tx, insert(ctx, 2))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := count(t, pool); got != 2 {
		t.Errorf("%d rows, want 2", got)
	}
}

// The server commits, and its answer is lost on the way.
func TestInTxTellsAnUnknownCommit(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(embeddedtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	server := relay(t, target)
	server.open()
	direct := open(t, postgres.Config{URL: target.String()})
	exec(t, direct, `create table note (id int primary key)`)
	pool := open(t, postgres.Config{URL: server.url})
	ctx := t.Context()

	server.cut("commit")
	err = postgres.InTx(ctx, pool, insert(ctx, 1))
	server.cut("")
	if !errors.Is(err, postgres.ErrCommitUnknown) {
		t.Fatalf("error is %v, want ErrCommitUnknown", err)
	}
	if postgres.IsRetryable(err) {
		t.Error("an unknown commit is called retryable")
	}
	for range 100 { // the server may still be at it
		if count(t, direct) == 1 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the row is not there: the commit did not reach the server, so the test shows nothing")
}

func TestInTxLostBeforeCommitIsRetryable(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(embeddedtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	server := relay(t, target)
	server.open()
	pool := open(t, postgres.Config{URL: server.url})
	exec(t, pool, `create table note (id int primary key)`)
	ctx := t.Context()

	server.cut("insert into note")
	err = postgres.InTx(ctx, pool, insert(ctx, 1))
	server.cut("")
	if err == nil || errors.Is(err, postgres.ErrCommitUnknown) || !postgres.IsRetryable(err) {
		t.Errorf("connection lost before commit: %v", err)
	}
	if err := postgres.InTx(ctx, pool, insert(ctx, 1)); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestIsRetryable(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{LockTimeout: 50 * time.Millisecond})
	ctx := t.Context()
	exec(t, pool, `create table note (id int primary key)`)
	exec(t, pool, `insert into note values (1)`)

	holder, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(ctx, `select from note for update`); err != nil {
		t.Fatal(err)
	}
	locked := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `update note set id = 2`)
		return err
	})
	if err := holder.Rollback(ctx); err != nil {
		t.Fatal(err)
	}

	killed := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
		return err
	})
	duplicate := postgres.InTx(ctx, pool, insert(ctx, 1))
	late, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	timedOut := postgres.InTx(late, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(late, `select pg_sleep(10)`)
		return err
	})

	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"nil":                   {nil, false},
		"lock not available":    {locked, true},
		"terminated":            {killed, true},
		"duplicate":             {duplicate, false},
		"deadline of caller":    {timedOut, false},
		"serialization failure": {&pgconn.PgError{Code: "40001"}, true},
		"deadlock":              {&pgconn.PgError{Code: "40P01"}, true},
		"statement timeout":     {&pgconn.PgError{Code: "57014"}, false},
		"unknown commit":        {errors.Join(postgres.ErrCommitUnknown, &pgconn.PgError{Code: "57P01"}), false},
		"other":                 {errors.New("other"), false},
	} {
		if test.err == nil && test.want {
			t.Errorf("%s: no error came", name)
		}
		if got := postgres.IsRetryable(test.err); got != test.want {
			t.Errorf("%s: IsRetryable(%v) = %t, want %t", name, test.err, got, test.want)
		}
	}
}
