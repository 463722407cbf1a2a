package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/postgres"
)

// Limits of the loops.
const (
	flushMax     = 1000                  // attempts of one transaction
	flushTimeout = 10 * time.Second      // of one such transaction
	flushRest    = 15 * time.Millisecond // so that a call that ends soon is written once, and calls share a commit
	retryRest    = 250 * time.Millisecond
	sweepEvery   = 15 * time.Second
	retainEvery  = time.Hour
)

// Run keeps leases alive, writes the books, ends what processes that died have left
// open, and drops what is too old, until ctx ends. It then writes what is left, gives
// its leases back and returns nil: run it longer than whoever makes calls.
func (k *Keeper) Run(ctx context.Context) error {
	if k.pool == nil {
		<-ctx.Done()
		return nil
	}
	var loops sync.WaitGroup
	loops.Go(func() { k.loop(ctx, "leases could not be renewed", k.config.Reload, k.changed, k.beat) })
	loops.Go(func() { k.loop(ctx, "the books could not be written", k.config.IdleAfter/2, k.due, k.keepBooks) })
	loops.Go(func() {
		k.loop(ctx, "what dead processes left could not be ended", min(sweepEvery, k.config.ReclaimAfter), nil, func(ctx context.Context) error {
			_, err := k.Sweep(ctx)
			return err
		})
	})
	loops.Go(func() { k.loop(ctx, "old books could not be dropped", retainEvery, nil, k.Retain) })
	loops.Wait()
	return k.leave(context.WithoutCancel(ctx))
}

// loop does something now, at every tick and when woken. What fails is logged and
// tried again.
func (k *Keeper) loop(ctx context.Context, failure string, every time.Duration, wake <-chan struct{}, do func(context.Context) error) {
	for rest := time.Duration(0); ; {
		select {
		case <-wake:
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		rest = every
		if err := do(context.WithoutCancel(ctx)); err != nil && ctx.Err() == nil {
			k.config.Logger.WarnContext(ctx, "part of the budgets failed and is tried again", "part", failure, "error", err)
			rest = min(every, retryRest)
		}
	}
}

// beat renews the leases of this process and looks for changes of budgets.
func (k *Keeper) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.config.LeaseFor/2)
	defer cancel()
	begun := k.now() // before the database adds to its own time
	k.mu.Lock()
	holder, revision := k.holder, k.directory.revision
	k.mu.Unlock()
	tag, err := k.pool.Exec(ctx, "update ai_holder set expires_at = clock_timestamp() + $2 where id = $1", holder, k.config.LeaseFor)
	if err != nil {
		return fmt.Errorf("renew leases: %w", err)
	}
	if tag.RowsAffected() == 0 { // the first time, or others took this process for dead
		holder = uuid.New()
		_, err := k.pool.Exec(ctx, `
			insert into ai_holder (id, kind, name, expires_at) values ($1, 'node', $2, clock_timestamp() + $3)`,
			holder, text(k.config.Name), k.config.LeaseFor)
		if err != nil {
			return fmt.Errorf("begin leases: %w", err)
		}
	}
	fresh, err := readDirectory(ctx, k.pool, revision)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.holder = holder
	// A tenth less, because clocks do not run alike.
	k.until = begun.Add(k.config.LeaseFor - k.config.LeaseFor/10)
	k.fresh = k.until
	if fresh != nil {
		k.directory = *fresh
		for id := range k.current { // limits may have changed: leases of the old ones go back
			delete(k.current, id)
		}
	}
	return nil
}

// keepBooks writes until nothing is left.
func (k *Keeper) keepBooks(ctx context.Context) error {
	for {
		time.Sleep(flushRest)
		more, err := k.flush(ctx, false)
		if err != nil || !more {
			return err
		}
	}
}

// Flush writes all that has happened so far into the books. Run does it by itself a
// few milliseconds after something has happened.
func (k *Keeper) Flush(ctx context.Context) error {
	for k.pool != nil {
		if more, err := k.flush(ctx, false); err != nil || !more {
			return err
		}
	}
	return nil
}

// flush writes one batch. It reports whether there is more.
func (k *Keeper) flush(ctx context.Context, everything bool) (more bool, err error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	k.back = append(k.back, k.idle(k.now(), everything)...)
	n := min(len(k.queue), flushMax)
	taken, back := k.queue[:n:n], k.back
	k.queue, k.back = k.queue[n:], nil
	more = len(k.queue) > 0
	entries := make([]*entry, n)
	for i, a := range taken {
		a.queued = false
		entries[i] = a.snapshot()
	}
	k.mu.Unlock()
	if n == 0 && len(back) == 0 {
		return more, nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	wrote := false
	err = postgres.InTx(ctx, k.pool, func(tx pgx.Tx) (err error) {
		wrote, err = write(ctx, tx, entries, back, k.config.NoCallEvents)
		return err
	})
	unknown := errors.Is(err, postgres.ErrCommitUnknown)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range taken {
		a.stored = a.stored || err == nil || unknown
	}
	if err == nil {
		k.written.Add(float64(n))
		if wrote {
			k.config.Wake()
		}
		return more, nil
	}
	again := make([]*Attempt, 0, n+len(k.queue))
	for _, a := range taken {
		if !a.queued { // or else it is further behind already
			a.queued = true
			again = append(again, a)
		}
	}
	k.queue = append(again, k.queue...)
	if !unknown { // what may be given back already is not given back again
		k.back = append(back, k.back...)
	}
	return more, fmt.Errorf("write %d attempts: %w", n, err)
}

// leave writes what is left and gives everything back.
func (k *Keeper) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*flushTimeout)
	defer cancel()
	k.mu.Lock()
	k.stopping = true
	holder := k.holder
	k.mu.Unlock()
	for {
		more, err := k.flush(ctx, true)
		if err != nil {
			return fmt.Errorf("close the books: %w", err)
		}
		if !more {
			break
		}
	}
	k.mu.Lock()
	open := 0
	for _, l := range k.leases {
		open += l.open
	}
	k.mu.Unlock()
	if open > 0 {
		k.config.Logger.WarnContext(ctx, "calls are open as the books are closed; they will be uncertain", "open", open)
		return nil // others end them when the leases have expired
	}
	return postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error { return dissolve(ctx, tx, holder) })
}

// dissolve gives back all that a holder has leased, and forgets it.
func dissolve(ctx context.Context, tx pgx.Tx, holder uuid.UUID) error {
	var batch pgx.Batch
	batch.Queue("select from ai_holder where id = $1 for update", holder)
	batch.Queue(`
		select from ai_period where (budget_id, starts_at) in (select budget_id, starts_at from ai_lease where holder_id = $1)
		order by budget_id, starts_at for update`, holder)
	batch.Queue(`
		with gone as (delete from ai_lease where holder_id = $1 returning budget_id, starts_at, amount)
		update ai_period p set reserved = p.reserved - gone.amount from gone
		where p.budget_id = gone.budget_id and p.starts_at = gone.starts_at`, holder)
	batch.Queue("delete from ai_holder where id = $1", holder)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("give leases of %s back: %w", holder, err)
	}
	return nil
}
