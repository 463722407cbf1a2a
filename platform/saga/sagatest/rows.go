package sagatest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/saga"
)

// Database has local steps run, in a transaction for each run of the saga that is
// rolled back at its end: what is in the database before is there in each run, and
// after the test. Each attempt at a local step has a savepoint, which is released or
// rolled back as the run has the engine commit, or crash before. Without it local
// steps are not run: they succeed, fail and say no by the seed.
//
// A local step that fails by itself ends the run as a broken promise, because the
// engine would only try it again until its time is up. To say no is no failure.
//
// The local steps of a run come one after the other, so it does not show what two
// do to each other that run at the same time.
func Database(pool *pgxpool.Pool) Option {
	return func(s *setup) { s.pool = pool }
}

// CheckRows looks at the database of [Database] at the end of a run, when each saga
// has ended. What it writes is not kept.
func CheckRows(check func(ctx context.Context, tx pgx.Tx, sagas []saga.Instance) error) Option {
	return func(s *setup) { s.rowChecks = append(s.rowChecks, check) }
}

// connect begins the transaction of a run.
func (w *world) connect() (disconnect func(), err error) {
	if w.setup.pool == nil {
		return func() {}, nil
	}
	ctx := context.Background()
	if w.tx, err = w.setup.pool.Begin(ctx); err != nil {
		return nil, fmt.Errorf("begin the transaction of a run: %w", err)
	}
	// Whoever waits for a lock waits for another test, or for ever for this one.
	if _, err = w.tx.Exec(ctx, "set local lock_timeout = '10s'"); err != nil {
		return nil, fmt.Errorf("begin the transaction of a run: %w", err)
	}
	return func() { _ = w.tx.Rollback(ctx) }, nil
}

// savepoint is the transaction of one attempt at a local step; nil is that of a run
// without a database.
type savepoint struct{ pgx.Tx }

// attempt runs the code of a local step and returns how that went. An error is its
// own failure.
func (w *world) attempt(in *saga.Instance, record saga.StepRecord) (input saga.LocalInput, at *savepoint, err error) {
	if w.tx == nil {
		return saga.LocalInput{Step: record.Name, Undo: record.Status == saga.StepCompensating, State: in.State}, nil, nil
	}
	ctx := context.Background()
	tx, err := w.tx.Begin(ctx)
	if err != nil {
		return input, nil, fmt.Errorf("begin local step %s: %w", record.Name, err)
	}
	input, err = w.program(in.Name).Attempt(ctx, tx, in, record)
	switch {
	case err != nil:
	case input.Error != "":
		err = fmt.Errorf("local step %s fails: %s: it would be tried again until its time is up; let it say no by events.Reject where that is meant", record.Name, input.Error)
	case input.Rejection != nil:
		w.tracef("%s: %s says no: %s", w.name(in.ID), record.Name, input.Rejection.Code)
	}
	return input, &savepoint{tx}, err
}

// checkConstraints is what a commit checks, and a savepoint does not.
const checkConstraints = "savepoint checked; set constraints all immediate; rollback to savepoint checked"

// commit keeps what the local step has written.
func (s *savepoint) commit() error {
	if s == nil {
		return nil
	}
	ctx := context.Background()
	if _, err := s.Exec(ctx, checkConstraints, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	return s.Commit(ctx)
}

// rollback drops it.
func (s *savepoint) rollback() error {
	if s == nil {
		return nil
	}
	return s.Rollback(context.Background())
}

// judgeRows has the database looked at.
func (w *world) judgeRows(all []saga.Instance) error {
	ctx := context.Background()
	for _, check := range w.setup.rowChecks {
		err := func() error {
			tx, err := w.tx.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(ctx) }()
			return check(ctx, tx, all)
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// tellLocals says when there are local steps that are not run.
func (s *setup) tellLocals(t testing.TB) {
	t.Helper()
	var names []string
	for _, p := range s.programs {
		graph := p.Graph()
		var walk func(n *saga.GraphNode)
		walk = func(n *saga.GraphNode) {
			if n.Kind == "local step" {
				names = append(names, n.Name)
			}
			for i := range n.Nodes {
				walk(&n.Nodes[i])
			}
		}
		walk(&graph.Flow)
	}
	if len(names) > 0 && s.pool == nil {
		t.Logf("not run, because there is no database: local step %s. They succeed, fail and say no by the seed, and leave the state as it is; sagatest.Database has them run",
			strings.Join(names, ", "))
	}
}
