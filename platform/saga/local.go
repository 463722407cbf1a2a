package saga

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
)

// Local is a step that is done by the engine itself, in the transaction that
// records it: its effect and the saga's transition commit together or not at all.
// Do and Undo may read and write the engine's database through tx, and the state.
// A rejection ([events.Reject]) compensates; any other error is tried again at the
// pace of Retry. They must have no effect outside tx, because a transaction may
// fail after they returned and run again.
//
// A local step leaves the batch of other sagas, so that a statement that fails
// costs nobody else anything: it takes a transaction of its own.
type Local[S any] struct {
	// Name as of [Step].
	Name string
	Do   func(ctx context.Context, tx pgx.Tx, state *S) error
	// Undo compensates; NoUndo tells why that is not needed.
	Undo   func(ctx context.Context, tx pgx.Tx, state *S) error
	NoUndo string
	// Pivot as of [Step]: a local pivot is never in doubt.
	Pivot bool
	// Timeout bounds all attempts together: 30 s by default.
	Timeout     time.Duration
	TimeoutCode events.Code
	Retry       Retry // Min is 1 s by default
}

// localFunc is the code of a local step without its type parameter.
type localFunc func(ctx context.Context, tx pgx.Tx, state any) error

func (l Local[S]) compile(c typed[S]) *node {
	n := c.named(kindLocal, l.Name)
	n.noUndo, n.pivot = l.NoUndo, l.Pivot
	c.paced(n, l.Timeout, l.TimeoutCode, Retry{Min: or(l.Retry.Min, time.Second), Max: l.Retry.Max, Jitter: l.Retry.Jitter, Attempts: l.Retry.Attempts})
	if l.Do == nil {
		c.fail("local step %q does nothing: set Do", l.Name)
	} else {
		n.local = func(ctx context.Context, tx pgx.Tx, state any) error { return l.Do(ctx, tx, state.(*S)) }
	}
	if l.Undo != nil {
		n.localUndo = func(ctx context.Context, tx pgx.Tx, state any) error { return l.Undo(ctx, tx, state.(*S)) }
	}
	return n
}
