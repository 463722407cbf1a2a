package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/postgres"
)

// Limits on the end of a transaction, which does not heed the batch's context:
// giving up on a commit would not undo it, only hide its outcome, and a rollback
// that is sent keeps the connection.
const (
	commitTimeout   = 30 * time.Second
	rollbackTimeout = 5 * time.Second
)

// transaction is a transaction whose BEGIN travels with its first query and whose
// COMMIT with its last statements: three round trips for a batch of one command.
// It is the [pgx.Tx] of handlers; [deliveryTx] keeps them from ending it.
type transaction struct {
	conn  *pgxpool.Conn
	inner pgx.Tx // pgx's own, for what only that can do; nil until then
}

// begin starts the transaction with the statements of batch, which it may add to.
func (t *transaction) begin(ctx context.Context, queue func(batch *pgx.Batch)) error {
	var batch pgx.Batch
	batch.Queue("begin")
	queue(&batch)
	t.inner = nil
	return t.conn.SendBatch(ctx, &batch).Close()
}

// commit ends the transaction with those statements. Without
// [postgres.ErrCommitUnknown] an error means that nothing was committed.
func (t *transaction) commit(ctx context.Context, batch *pgx.Batch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("before commit: %w", err)
	}
	if t.conn.Conn().IsClosed() { // a handler has passed over that error
		return fmt.Errorf("before commit: %w", pgconn.ErrConnClosed)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	// After an error the server skips the rest, so a COMMIT that runs has seen
	// every statement succeed.
	batch.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return pgx.ErrTxCommitRollback
		}
		return nil
	})
	err := t.conn.SendBatch(ctx, batch).Close()
	switch {
	case err == nil:
		return nil
	case t.notCommitted(err):
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("commit: %w: %w", postgres.ErrCommitUnknown, err)
}

// notCommitted reports an error of commit after which nothing is committed for
// sure: the server refused a statement, or the transaction is still open because
// nothing could be sent. A FATAL error proves nothing, for a server that stops
// may do so between the commit and its answer.
func (t *transaction) notCommitted(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		return answer.SeverityUnlocalized == "ERROR" && answer.Code != "40003"
	}
	return !t.conn.Conn().IsClosed() && t.status() != 'I'
}

// rollback undoes everything. Where that fails the connection is closed, and the
// server does it.
func (t *transaction) rollback(ctx context.Context) error {
	if t.conn.Conn().IsClosed() || t.status() == 'I' {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := t.conn.Exec(ctx, "rollback"); err != nil {
		_ = t.conn.Conn().Close(ctx)
		return fmt.Errorf("rollback: %w", err)
	}
	return nil
}

// status is 'T' in a transaction, 'E' in one that has failed, and 'I' in none.
func (t *transaction) status() byte { return t.conn.Conn().PgConn().TxStatus() }

// own returns pgx's own transaction for the one that is open. Its BEGIN is a
// statement without effect, and nobody ends it.
func (t *transaction) own(ctx context.Context) (pgx.Tx, error) {
	if t.inner == nil {
		inner, err := t.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: "select"})
		if err != nil {
			return nil, err
		}
		t.inner = inner
	}
	return t.inner, nil
}

// Begin implements [pgx.Tx].
func (t *transaction) Begin(ctx context.Context) (pgx.Tx, error) {
	inner, err := t.own(ctx)
	if err != nil {
		return nil, err
	}
	return inner.Begin(ctx)
}

// LargeObjects implements [pgx.Tx].
func (t *transaction) LargeObjects() pgx.LargeObjects {
	inner, err := t.own(context.Background())
	if err != nil {
		return pgx.LargeObjects{} // the connection is lost, or the transaction has failed
	}
	return inner.LargeObjects()
}

// Exec implements [pgx.Tx].
func (t *transaction) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return t.conn.Exec(ctx, sql, args...)
}

// Query implements [pgx.Tx].
func (t *transaction) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.conn.Conn().Query(ctx, sql, args...)
}

// QueryRow implements [pgx.Tx].
func (t *transaction) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return t.conn.Conn().QueryRow(ctx, sql, args...)
}

// SendBatch implements [pgx.Tx].
func (t *transaction) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	return t.conn.SendBatch(ctx, batch)
}

// CopyFrom implements [pgx.Tx].
func (t *transaction) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	return t.conn.CopyFrom(ctx, table, columns, source)
}

// Prepare implements [pgx.Tx].
func (t *transaction) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	return t.conn.Conn().Prepare(ctx, name, sql)
}

// Conn implements [pgx.Tx].
func (t *transaction) Conn() *pgx.Conn { return t.conn.Conn() }

// Commit implements [pgx.Tx].
func (t *transaction) Commit(context.Context) error { return errNotYours }

// Rollback implements [pgx.Tx].
func (t *transaction) Rollback(context.Context) error { return errNotYours }
