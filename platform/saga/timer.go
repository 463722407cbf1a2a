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

// RunTimers fires due timers until ctx ends, and returns nil then. Engines share
// the work: when two of them meet on a saga, one wins and the other looks again.
func (e *Engine) RunTimers(ctx context.Context) error {
	failures := 0
	for {
		fired, err := e.fire(context.WithoutCancel(ctx))
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
	ids, found, now, err := e.dueTimers(ctx)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	t := e.newTransition()
	t.found, t.now = found, now
	var (
		gone    []uuid.UUID // timers of sagas that wait for nothing
		foreign []uuid.UUID // of sagas that this engine should have been able to advance
		reason  error
	)
	for _, id := range ids {
		saga, known := t.found[id]
		if !known || saga.unreadable == nil && saga.due().IsZero() {
			gone = append(gone, id)
			continue
		}
		if _, err := t.decide(ctx, saga, Input{Tick: true}, nil); err != nil {
			foreign, reason = append(foreign, id), err
			continue
		}
		if _, changed := t.changed[id]; !changed { // it fired early: only its timer is set anew
			t.changed[id] = &change{id: id, before: saga.revision, instance: saga.Instance}
			t.order = append(t.order, id)
		}
		t.changed[id].fired = true
	}
	// Transactions of their own: they must not hold timers while they wait for sagas.
	if len(foreign) > 0 {
		e.config.Logger.WarnContext(ctx, "due saga timers are left to other engines", "timers", len(foreign), "reason", reason)
		_, err := e.pool.Exec(ctx, `
			update saga_timer set due_at = clock_timestamp() + interval '10 s'
			where saga_id = any($1) and due_at <= clock_timestamp()`, foreign)
		if err != nil {
			return 0, fmt.Errorf("put off timers: %w", err)
		}
	}
	if len(gone) > 0 {
		_, err := e.pool.Exec(ctx, "delete from saga_timer where saga_id = any($1) and due_at <= clock_timestamp()", gone)
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
// belong together: another engine may be firing the same ones.
func (e *Engine) dueTimers(ctx context.Context) (ids []uuid.UUID, found map[uuid.UUID]*stored, now time.Time, err error) {
	names, versions := make([]string, 0, len(e.programs)), make([]int, 0, len(e.programs))
	for key := range e.programs {
		names, versions = append(names, key.name), append(versions, key.version)
	}
	// Timers of sagas that need another engine are passed over: they stay due, and
	// enough of them would fill the limit for ever.
	rows, err := e.pool.Query(ctx, `
		select due.now, due.saga_id, s.revision, s.document
		from (
			select clock_timestamp() as now, t.saga_id
			from saga_timer as t
			left join saga as s on s.id = t.saga_id
			where t.due_at <= clock_timestamp()
				and (s.id is null or exists (
					select from unnest($2::text[], $3::integer[]) as p (name, version)
					where p.name = s.definition and p.version = s.version))
			order by t.due_at limit $1
		) as due
		left join saga as s on s.id = due.saga_id`, timersMax, names, versions)
	if err != nil {
		return nil, nil, now, fmt.Errorf("read timers: %w", err)
	}
	found = make(map[uuid.UUID]*stored)
	var (
		at       time.Time
		id       uuid.UUID
		revision *int64 // nil: there is no such saga
		document []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&at, &id, &revision, &document}, func() error {
		ids = append(ids, id)
		if at.After(now) {
			now = at
		}
		if revision != nil {
			found[id] = decode(id, *revision, document)
		}
		return nil
	})
	if err != nil {
		return nil, nil, now, fmt.Errorf("read timers: %w", err)
	}
	return ids, found, now.UTC(), nil
}
