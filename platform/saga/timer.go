package saga

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// timersMax is how many due timers one transaction takes.
const timersMax = 256

// RunTimers fires due timers, gives locks away and runs local steps until ctx ends; it then waits for
// those that are under way, and returns nil. Engines share the work: when two of
// them meet on a saga, one wins and the other looks again.
func (e *Engine) RunTimers(ctx context.Context) error {
	defer e.locals.wait()
	failures := 0
	for {
		fired, err := e.fire(context.WithoutCancel(ctx))
		if err == nil && e.locks {
			var granted int
			if granted, err = e.grant(context.WithoutCancel(ctx)); granted == grantsMax {
				fired = timersMax
			}
		}
		rest := e.config.Poll
		switch {
		case err != nil && !isConflict(err):
			failures++
			rest = min(30*time.Second, time.Second<<min(failures, 5))
			e.config.Logger.WarnContext(ctx, "saga timers could not be fired", "retry_in", rest, "error", err)
		case err != nil || fired == timersMax:
			rest, failures = 0, 0
		default:
			failures = 0
		}
		if !e.rest(ctx, rest) {
			return nil
		}
	}
}

// rest waits for that long, or until just after a timer that was set meanwhile
// is due. It returns false when ctx has ended.
func (e *Engine) rest(ctx context.Context, duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	end := time.Now().Add(duration)
	for {
		select {
		case <-timer.C:
			return ctx.Err() == nil
		case due := <-e.armed:
			if due.Before(end) {
				end = due
				timer.Reset(max(time.Until(due), 0))
			}
		case <-ctx.Done():
			return false
		}
	}
}

// hint tells the timer loop of a timer that is due soon. It never blocks; the
// poll is the net.
func (e *Engine) hint(due time.Time) {
	if due.IsZero() || time.Until(due) > e.config.Poll {
		return
	}
	select {
	case e.armed <- due:
	default:
	}
}

// fire handles due timers in one transaction and returns how many it handled. It
// takes no locks to read them: engines that meet on a saga are told apart by its
// revision, and locking timers before sagas would deadlock with Process, which
// goes the other way round.
func (e *Engine) fire(ctx context.Context) (fired int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	t := e.newTransition()
	var ids []uuid.UUID
	if ids, t.found, t.now, err = e.dueTimers(ctx); err != nil || len(ids) == 0 {
		return 0, err
	}
	var (
		gone    []uuid.UUID // timers of sagas that wait for nothing
		foreign []uuid.UUID // of sagas that this engine should have been able to advance
		reason  error
	)
	for _, id := range ids {
		saga, known := t.found[id]
		if !known || saga.unreadable == nil && saga.Status.Final() {
			gone = append(gone, id)
			continue
		}
		program, _, err := e.program(saga)
		if err == nil && saga.DueLocal(t.now) != nil {
			e.runLocal(ctx, id)
			continue
		}
		if err == nil {
			_, err = t.decide(ctx, saga, Input{Tick: true}, nil)
		}
		if _, changed := t.changed[id]; err == nil && !changed {
			// It fired early, so its timer is set anew. That counts as a transition, or
			// an engine that has the saga in memory would not know of the new timer.
			err = t.keep(saga, program, saga.Instance, Cause{Kind: "timer"})
		}
		if err != nil {
			foreign, reason = append(foreign, id), err
			continue
		}
		t.changed[id].fired = true
	}
	// Transactions of their own: they must not hold timers while they wait for sagas.
	if len(foreign) > 0 {
		e.config.Logger.WarnContext(ctx, "due saga timers are left to other engines", "timers", len(foreign), "reason", reason)
		_, err := e.pool.Exec(ctx, `
			update saga_live set due_at = clock_timestamp() + interval '10 s'
			where saga_id = any($1) and due_at <= clock_timestamp()`, plain(foreign))
		if err != nil {
			return 0, fmt.Errorf("put off timers: %w", err)
		}
	}
	if len(gone) > 0 {
		_, err := e.pool.Exec(ctx, `
			delete from saga_live where saga_id = any($1)
				and not exists (select from saga where id = saga_id and status in ('running', 'compensating', 'stuck'))`, plain(gone))
		if err != nil {
			return 0, fmt.Errorf("delete timers: %w", err)
		}
	}
	if err := t.commit(ctx, &pgx.Batch{}); err != nil {
		return 0, err
	}
	return len(t.order) + len(gone), nil
}

// dueTimers reads the timers that have been due for longest, with their sagas and
// the database's time. One statement reads both, so that a timer and its saga
// belong together: another engine may be firing the same ones. Timers of sagas
// that need another engine are passed over: they stay due, and enough of them
// would fill the limit for ever.
func (e *Engine) dueTimers(ctx context.Context) (ids []uuid.UUID, found map[uuid.UUID]*stored, now time.Time, err error) {
	var (
		names    []string
		versions []int32
	)
	for _, p := range e.programs {
		names, versions = append(names, p.Name), append(versions, int32(p.Version))
		for version := range p.takes {
			names, versions = append(names, p.Name), append(versions, int32(version))
		}
	}
	busy := e.locals.ids()
	rows, err := e.pool.Query(ctx, `
		select due.now, due.saga_id, `+columnsOf+`
		from (
			select clock_timestamp() as now, t.saga_id
			from saga_live as t
			left join saga as s on s.id = t.saga_id
			where t.due_at <= clock_timestamp() and t.saga_id <> all($4)
				and (s.id is null or exists (
					select from unnest($2::text[], $3::integer[]) as p (name, version)
					where p.name = s.definition and p.version = s.version))
			order by t.due_at limit $1
		) as due
		left join saga as s on s.id = due.saga_id
		left join saga_live as l on l.saga_id = s.id`, timersMax, names, versions, plain(busy))
	if err != nil {
		return nil, nil, now, fmt.Errorf("read timers: %w", err)
	}
	found = make(map[uuid.UUID]*stored)
	var (
		at  time.Time
		id  uuid.UUID
		row scanner
	)
	_, err = pgx.ForEachRow(rows, append([]any{&at, &id}, row.targets()...), func() error {
		ids = append(ids, id)
		if at.After(now) {
			now = at
		}
		if row.id != nil {
			found[id] = row.saga()
		}
		return nil
	})
	if err != nil {
		return nil, nil, now, fmt.Errorf("read timers: %w", err)
	}
	return ids, found, now.UTC(), nil
}
