package consumer

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// deliveryTx is the transaction as the handler of one delivery sees it. It opens
// a savepoint together with the handler's first statement, in the same round
// trip, so that the delivery's writes can be rolled back alone. The savepoint of
// the delivery before is released first: they never nest. A delivery that is
// alone in its transaction needs none.
type deliveryTx struct {
	pgx.Tx
	ctx    context.Context // of the delivery, for the methods that take none
	alone  bool            // there is no other delivery in the transaction
	used   bool            // the handler may have written
	nested bool            // there is an earlier delivery's savepoint to release
	opened bool            // the savepoint is there, as the server has confirmed
	failed bool            // it may not be: the first statement failed, perhaps before it
}

// open queues the savepoint.
func (t *deliveryTx) open(batch *pgx.Batch) (statements int) {
	if t.nested {
		batch.Queue("release savepoint delivery")
	}
	batch.Queue("savepoint delivery")
	return batch.Len()
}

// first sends the savepoint and the statement, and returns the results at the
// statement's. pgx prepares all statements of a batch before it runs any, so one
// that cannot be prepared aborts the transaction before there is a savepoint.
func (t *deliveryTx) first(ctx context.Context, sql string, args []any) pgx.BatchResults {
	var batch pgx.Batch
	before := t.open(&batch)
	batch.Queue(sql, args...)
	results := t.Tx.SendBatch(ctx, &batch)
	for range before {
		if _, err := results.Exec(); err != nil {
			t.failed = true
			return results // its next result is that error again
		}
	}
	t.opened = true
	return results
}

// joins reports whether a statement may share the savepoint's round trip. One
// without arguments may hold several statements, and pgx's options change how a
// statement is sent: both are beyond a batch.
func joins(args []any) bool {
	if len(args) == 0 {
		return false
	}
	switch args[0].(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
		return false
	}
	return true
}

// through reports that a statement needs no savepoint before it.
func (t *deliveryTx) through() bool {
	t.used = true
	return t.alone || t.opened
}

// Exec implements [pgx.Tx].
func (t *deliveryTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if !joins(args) {
		t.ahead(ctx)
		return t.Tx.Exec(ctx, sql, args...)
	}
	if t.through() {
		return t.Tx.Exec(ctx, sql, args...)
	}
	results := t.first(ctx, sql, args)
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return tag, err
}

// Query implements [pgx.Tx].
func (t *deliveryTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if len(args) > 0 && !joins(args) {
		t.ahead(ctx)
	}
	if t.through() {
		return t.Tx.Query(ctx, sql, args...)
	}
	results := t.first(ctx, sql, args)
	rows, err := results.Query()
	if err != nil {
		_ = results.Close()
		return rows, err // rows that tell the error as well, as pgx promises
	}
	return &batchRows{Rows: rows, results: results}, nil
}

// QueryRow implements [pgx.Tx].
func (t *deliveryTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if len(args) > 0 && !joins(args) {
		t.ahead(ctx)
	}
	if t.through() {
		return t.Tx.QueryRow(ctx, sql, args...)
	}
	return batchRow{t.first(ctx, sql, args)}
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

// Prepare implements [pgx.Tx].
func (t *deliveryTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	t.ahead(ctx)
	return t.Tx.Prepare(ctx, name, sql)
}

// LargeObjects implements [pgx.Tx].
func (t *deliveryTx) LargeObjects() pgx.LargeObjects {
	t.ahead(t.ctx)
	return t.Tx.LargeObjects()
}

// Conn implements [pgx.Tx]. What is written through it belongs to the delivery.
func (t *deliveryTx) Conn() *pgx.Conn {
	t.ahead(t.ctx)
	return t.Tx.Conn()
}

// Commit is the platform's to do: a handler that calls it gets an error.
func (t *deliveryTx) Commit(context.Context) error { return errNotYours }

// Rollback is the platform's to do: a handler that calls it gets an error.
func (t *deliveryTx) Rollback(context.Context) error { return errNotYours }

// ahead opens the savepoint by itself. An error aborts the transaction, which
// the statement after it reports.
func (t *deliveryTx) ahead(ctx context.Context) {
	if t.through() {
		return
	}
	var batch pgx.Batch
	t.open(&batch)
	err := t.Tx.SendBatch(ctx, &batch).Close()
	t.opened, t.failed = err == nil, t.failed || err != nil
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
type batchRow struct{ results pgx.BatchResults }

// Scan implements [pgx.Row].
func (r batchRow) Scan(dest ...any) error {
	err := r.results.QueryRow().Scan(dest...)
	if closeErr := r.results.Close(); err == nil {
		err = closeErr
	}
	return err
}
