package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrCommitUnknown is wrapped by the error of a COMMIT whose answer never came:
// the transaction may be committed or not. Read the truth back, or repeat the
// work in a way that is safe twice. It is never [IsRetryable].
var ErrCommitUnknown = errors.New("commit outcome unknown")

// Beginner is what InTx needs: a *pgxpool.Pool, a *pgx.Conn, or a pgx.Tx, whose
// Begin makes a savepoint.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

const (
	commitTimeout   = 30 * time.Second
	rollbackTimeout = 5 * time.Second
)

// InTx runs do in a transaction of db at the server's default isolation, commits
// when do returns nil, and rolls back when it returns an error or panics. It
// retries nothing; do must not keep tx.
//
// An error of do comes back as it is. ctx governs the work up to the COMMIT: when
// it ends before, the transaction is rolled back. The COMMIT itself runs to its
// end regardless of ctx, at most 30 s, because giving up on it would not undo it,
// only hide its outcome.
//
// When the COMMIT fails the error says which of two cases it is. With
// [ErrCommitUnknown] the connection was lost or the server was stopped while
// committing, and nobody can tell. Without it nothing was committed.
func InTx(ctx context.Context, db Beginner, do func(tx pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	ended := false
	defer func() {
		if !ended { // do returned an error or panicked, or ctx ended
			rollback(ctx, tx)
		}
	}()
	if err := do(tx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("before commit: %w", err)
	}
	if conn := tx.Conn(); conn != nil && conn.IsClosed() { // do passed over an error
		return fmt.Errorf("before commit: %w", pgconn.ErrConnClosed)
	}
	ended = true
	return commit(ctx, tx)
}

func commit(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	err := tx.Commit(ctx)
	switch {
	case err == nil:
		return nil
	case certainlyNotCommitted(err):
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("commit: %w: %w", ErrCommitUnknown, err)
}

// certainlyNotCommitted reports an error of COMMIT after which the transaction is
// rolled back for sure. Two things look like proof and are not. A FATAL or PANIC
// error: the backend may be told to stop between writing the commit record and
// answering. And pgconn.SafeToRetry: pgx 5.12 reports an answer lost after COMMIT
// was sent as "conn closed", and that as safe (pgconn, MultiResultReader).
func certainlyNotCommitted(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, pgx.ErrTxClosed) {
		return true
	}
	var serverErr *pgconn.PgError
	return errors.As(err, &serverErr) && serverErr.SeverityUnlocalized == "ERROR" && serverErr.Code != "40003"
}

// rollback does not heed ctx's end: a rollback that is sent keeps the connection
// for the next user, one that is not costs a new connection.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_ = tx.Rollback(ctx) // the server rolls back anyway when the connection is gone
}

// IsRetryable reports whether running the same transaction again may succeed
// and cannot repeat an effect: a serialization failure, a deadlock, a lock not
// available in time, or a connection lost, refused or shut down before the
// COMMIT. It is false for [ErrCommitUnknown] and for the end of a context.
func IsRetryable(err error) bool {
	if err == nil || errors.Is(err, ErrCommitUnknown) || errors.Is(err, context.Canceled) {
		return false
	}
	var connectErr *pgconn.ConnectError
	var serverErr *pgconn.PgError
	switch {
	case errors.As(err, &serverErr):
		return retryableCode(serverErr.Code)
	case errors.As(err, &connectErr):
		return true // a connect timeout is a deadline too, so this comes before
	case errors.Is(err, context.DeadlineExceeded):
		return false
	}
	return lostConnection(err)
}

func retryableCode(code string) bool {
	switch code {
	case "40001", // serialization failure
		"40P01", // deadlock
		"55P03", // lock not available
		"53300", // too many connections
		"57P01", // admin shutdown
		"57P02", // crash shutdown
		"57P03": // cannot connect now
		return true
	}
	return strings.HasPrefix(code, "08") // connection exception
}

// lostConnection reports an error of the connection rather than of the server.
func lostConnection(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
