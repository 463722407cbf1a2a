package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Migrate brings the schemas of the sets up to date, in the order given. It is
// safe to call from many processes at once: one works, the others wait for it.
// When nothing is pending it only reads. Each file runs in its own transaction
// unless it says "-- +goose NO TRANSACTION"; after an error the files before the
// failed one stay applied, and a later call goes on from there.
//
// It returns an error wrapping [ErrSchemaNewer], and changes nothing in that set,
// when the database already holds migrations this binary does not know.
//
// Migrations run on a connection of their own, with the pool's settings but
// without a statement timeout; ctx bounds them.
func Migrate(ctx context.Context, pool *pgxpool.Pool, sets ...MigrationSet) error {
	cfg := pool.Config().ConnConfig
	cfg.RuntimeParams["statement_timeout"] = "0"
	cfg.RuntimeParams["timezone"] = "UTC" // goose records times without a zone
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	for _, set := range sets {
		if err := set.migrate(ctx, pool, db); err != nil {
			return err
		}
	}
	return nil
}

func (s MigrationSet) migrate(ctx context.Context, pool *pgxpool.Pool, db *sql.DB) error {
	err := CheckSchema(ctx, pool, s)
	if !errors.Is(err, ErrSchemaOlder) || errors.Is(err, ErrSchemaNewer) {
		return err // nil when there is nothing to do
	}
	files, err := fs.Sub(s.FS, "migrations")
	if err != nil {
		return fmt.Errorf("migrations of %s: %w", s.Owner, err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(s.table()),
		goose.WithSessionLocker(sessionLock{}),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		return fmt.Errorf("migrations of %s: %w", s.Owner, err)
	}
	_, err = provider.Up(ctx)
	var partial *goose.PartialError
	switch {
	case errors.As(err, &partial):
		return fmt.Errorf("migrate %s: %s: %w", s.Owner, partial.Failed.Source.Path, partial.Err)
	case err != nil:
		return fmt.Errorf("migrate %s: %w", s.Owner, err)
	}
	return nil
}

// migrationLock is the advisory lock that migrating processes of one database
// exclude each other with: "countmig" in ASCII.
const migrationLock int64 = 0x636f756e746d6967

const migrationLockPoll = 50 * time.Millisecond

// sessionLock is a goose session locker that asks again and again. It must not
// wait inside pg_advisory_lock: the waiter's snapshot would block, and deadlock
// with, a CREATE INDEX CONCURRENTLY of the holder. Goose's own locker asks every
// second at the soonest, which each process of a cold start would pay.
type sessionLock struct{}

// SessionLock returns when conn's session holds the lock or ctx ends.
func (sessionLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var held bool
		if err := conn.QueryRowContext(ctx, `select pg_try_advisory_lock($1)`, migrationLock).Scan(&held); err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		if held {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another process that migrates: %w", ctx.Err())
		case <-time.After(migrationLockPoll):
		}
	}
}

// SessionUnlock gives the lock back. A session that is gone has lost it already.
func (sessionLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, rollbackTimeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, `select pg_advisory_unlock($1)`, migrationLock); err != nil {
		return fmt.Errorf("unlock migrations: %w", err)
	}
	return nil
}
