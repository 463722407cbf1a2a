package consumer

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// deliveryTx is the transaction as the handler of one delivery sees it. It opens
// a savepoint together with the handler's first statement, in the same round
// trip, so that the delivery's writes can be rolled back alone. The savepoint of
// the delivery before is released first: they never nest.
type deliveryTx struct {
	pgx.Tx
	nested bool // there is an earlier delivery's savepoint to release
	opened bool
}

// open queues the savepoint, before the first statement only.
func (t *deliveryTx) open(batch *pgx.Batch) (statements int) {
	if t.opened {
		return 0
	}
	t.opened = true
	if t.nested {
		batch.Queue("release savepoint delivery")
	}
	batch.Queue("savepoint delivery")
	return batch.Len()
}

// first sends the savepoint and the statement, and returns the results at the
// statement's.
func (t *deliveryTx) first(ctx context.Context, sql string, args []any) (pgx.BatchResults, error) {
	var batch pgx.Batch
	before := t.open(&batch)
	batch.Queue(sql, args...)
	results := t.Tx.SendBatch(ctx, &batch)
	for range before {
		if _, err := results.Exec(); err != nil {
			_ = results.Close()
			return nil, err
		}
	}
	return results, nil
}

// Exec implements [pgx.Tx].
func (t *deliveryTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.opened {
		return t.Tx.Exec(ctx, sql, args...)
	}
	results, err := t.first(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return tag, err
}

// Query implements [pgx.Tx].
func (t *deliveryTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.opened {
		return t.Tx.Query(ctx, sql, args...)
	}
	results, err := t.first(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		_ = results.Close()
		return rows, err
	}
	return &batchRows{Rows: rows, results: results}, nil
}

// QueryRow implements [pgx.Tx].
func (t *deliveryTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.opened {
		return t.Tx.QueryRow(ctx, sql, args...)
	}
	results, err := t.first(ctx, sql, args)
	return batchRow{results, err}
}

// SendBatch implements [pgx.Tx]. The savepoint goes ahead in a round trip of its
// own, since the caller counts the results of its batch.
func (t *deliveryTx) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	t.ahead(ctx)
	return t.Tx.SendBatch(ctx, batch)
}

// CopyFrom implements [pgx.Tx].
func (t *deliveryTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	t.ahead(ctx)
	return t.Tx.CopyFrom(ctx, table, columns, source)
}

// Begin implements [pgx.Tx].
func (t *deliveryTx) Begin(ctx context.Context) (pgx.Tx, error) {
	t.ahead(ctx)
	return t.Tx.Begin(ctx)
}

// Commit is the platform's to do: a handler that calls it gets an error.
func (t *deliveryTx) Commit(context.Context) error { return errNotYours }

// Rollback is the platform's to do: a handler that calls it gets an error.
func (t *deliveryTx) Rollback(context.Context) error { return errNotYours }

// ahead opens the savepoint by itself. An error aborts the transaction, which
// the statement after it reports.
func (t *deliveryTx) ahead(ctx context.Context) {
	var batch pgx.Batch
	if t.open(&batch) > 0 {
		_ = t.Tx.SendBatch(ctx, &batch).Close()
	}
}

// batchRows are rows that end their batch when they are closed.
type batchRows struct {
	pgx.Rows
	results pgx.BatchResults
	closed  bool
	err     error
}

// Next implements [pgx.Rows].
func (r *batchRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close implements [pgx.Rows].
func (r *batchRows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.Rows.Close()
	r.err = r.results.Close()
}

// Err implements [pgx.Rows].
func (r *batchRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// batchRow is a row that ends its batch when it is scanned.
type batchRow struct {
	results pgx.BatchResults
	err     error
}

// Scan implements [pgx.Row].
func (r batchRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	err := r.results.QueryRow().Scan(dest...)
	if closeErr := r.results.Close(); err == nil {
		err = closeErr
	}
	return err
}
