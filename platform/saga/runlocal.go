package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
)

// localsMax is how many local steps an engine runs at the same time. Each holds a
// connection.
const localsMax = 4

// locals are the local steps that are under way.
type locals struct {
	mu      sync.Mutex
	running map[uuid.UUID]bool
	group   sync.WaitGroup
}

func (l *locals) ids() (ids []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.running {
		ids = append(ids, id)
	}
	return ids
}

func (l *locals) wait() { l.group.Wait() }

// start runs work for a saga, unless enough is under way: its timer stays due.
func (l *locals) start(id uuid.UUID, work func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == nil {
		l.running = make(map[uuid.UUID]bool)
	}
	if l.running[id] || len(l.running) >= localsMax {
		return
	}
	l.running[id] = true
	l.group.Go(func() {
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.running, id)
		}()
		work()
	})
}

// DueLocal returns the record of the local step that is to be run, or undone, by
// then; nil for none.
func (in *Instance) DueLocal(now time.Time) *StepRecord {
	if in.Status.Final() || in.Paused {
		return nil
	}
	for i := range in.Steps {
		r := &in.Steps[i]
		waiting, undo := r.awaits()
		if r.Kind == string(kindLocal) && waiting && undo == in.Backward {
			if due := r.call().RetryAt; !due.IsZero() && !now.Before(due) {
				return r
			}
		}
	}
	return nil
}

// runLocal runs the due local steps of a saga beside the timer loop.
func (e *Engine) runLocal(ctx context.Context, id uuid.UUID) {
	ctx = context.WithoutCancel(ctx)
	e.locals.start(id, func() {
		for {
			again, err := e.attemptLocal(ctx, id)
			if err != nil && !isConflict(err) {
				e.config.Logger.WarnContext(ctx, "local step could not be recorded; it will be run again", "saga_id", id, "error", err)
			}
			if err != nil || !again {
				e.hint(time.Now()) // others may have been waiting for the place
				return
			}
		}
	})
}

// attemptLocal makes one attempt at a due local step, in a transaction of its own
// that holds the saga. It reports whether it found one.
func (e *Engine) attemptLocal(ctx context.Context, id uuid.UUID) (found bool, err error) {
	tx, err := e.pool.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// The settings of the pool are for the engine's own statements.
	_, err = tx.Exec(ctx, "set local plan_cache_mode = auto; set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on")
	if err != nil {
		return false, fmt.Errorf("set planner: %w", err)
	}
	var held uuid.UUID
	err = tx.QueryRow(ctx, "select id from saga where id = $1 for no key update skip locked", id).Scan(&held)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil // another engine is at it
	} else if err != nil {
		return false, fmt.Errorf("hold saga %s: %w", id, err)
	}
	t := e.newTransition()
	if t.found, t.now, err = load(ctx, tx, []uuid.UUID{id}); err != nil {
		return false, err
	}
	saga := t.found[id]
	program, _, err := e.program(saga)
	if err != nil {
		return false, err
	}
	record := saga.DueLocal(t.now)
	if record == nil {
		return false, nil
	}
	input, err := program.Attempt(ctx, tx, &saga.Instance, *record)
	if err != nil {
		return false, err
	}
	if _, err := t.decide(ctx, saga, Input{Local: &input}, nil); err != nil {
		return false, err
	}
	if c := t.changed[id]; c != nil {
		c.fired = true
	}
	err = t.write(ctx, &pgx.Batch{}, func(batch *pgx.Batch) error {
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	return true, err
}

// Attempt runs the code of the local step that is due, or its undo, within a
// savepoint and no longer than its timeout, and returns how it went: what it has
// written stays when it succeeded, and else is gone. The error is of the transaction
// itself.
func (p *Program) Attempt(ctx context.Context, tx pgx.Tx, in *Instance, record StepRecord) (input LocalInput, err error) {
	_, undo := record.awaits()
	input = LocalInput{Step: record.Name, Undo: undo}
	n, at, ok := p.locate(record.Name)
	if !ok {
		return input, fmt.Errorf("saga %s has no step %s", in.ID, record.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, max(n.timeout, time.Second))
	defer cancel()
	d := decision{program: p, Instance: *in}
	d.Steps = append([]StepRecord(nil), in.Steps...)
	run := n.local
	if undo {
		run = n.localUndo
	}
	inner, err := tx.Begin(ctx) // a savepoint
	if err != nil {
		return input, fmt.Errorf("begin savepoint: %w", err)
	}
	failure := protect(func() error {
		state, err := d.state(at)
		if err != nil {
			return err
		}
		if err := run(ctx, inner, state); err != nil {
			return err
		}
		return d.folded(at, state)
	})
	if failure == nil {
		if failure = inner.Commit(ctx); failure == nil {
			input.State, input.Items = d.State, d.items(at)
			return input, nil
		}
	}
	if rejection, ok := errors.AsType[*events.Rejection](failure); ok {
		input.Rejection = rejection
	} else {
		input.Error = failure.Error()
	}
	if err := inner.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		return input, fmt.Errorf("roll back local step %s: %w", record.Name, err)
	}
	return input, nil
}

// items returns those of the for-each nodes around a scope.
func (d *decision) items(at *scope) map[string][]json.RawMessage {
	all := make(map[string][]json.RawMessage)
	for ; at != nil; at = at.up {
		if at.around.kind == kindForEach {
			name := at.up.path(at.around)
			all[name] = d.record(name).Items
		}
	}
	return all
}
