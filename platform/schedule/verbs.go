package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
)

// What the verbs of operators refuse; test for them with [errors.Is].
var (
	// ErrNotFound means that there is no schedule of that id.
	ErrNotFound = errors.New("schedule not found")
	// ErrExists means that there is one already.
	ErrExists = errors.New("schedule exists already")
	// ErrRevision means that another operator has changed the schedule since.
	ErrRevision = errors.New("schedule was changed since that revision")
	// ErrOverlap means that the saga of an earlier firing has not ended.
	ErrOverlap = errors.New("the saga of an earlier firing has not ended")
)

// AnyRevision changes a schedule whatever its revision is.
const AnyRevision int64 = 0

// backfillsMax bounds how many backfills of one schedule wait.
const backfillsMax = 10

// noteBytesMax bounds a note.
const noteBytesMax = 1000

// Create stores a new schedule. Its first firing is the first after now. It
// fails with [ErrExists], or with [ErrInvalid] and everything that is wrong.
func (s *Scheduler) Create(ctx context.Context, schedule Schedule) (Record, error) {
	r := &Record{Schedule: schedule.withDefaults(), Revision: 1}
	times, err := s.accept(&r.Schedule)
	if err != nil {
		return Record{}, err
	}
	var now time.Time
	if err := s.pool.QueryRow(ctx, "select clock_timestamp()").Scan(&now); err != nil {
		return Record{}, fmt.Errorf("create schedule %s: %w", r.ID, err)
	}
	now = now.UTC()
	r.State = State{Origin: events.NewID(), CreatedAt: now, UpdatedAt: now, Next: times.next(now)}
	if r.State.Next.IsZero() {
		return Record{}, fmt.Errorf("%w: it would never fire", ErrInvalid)
	}
	added, err := s.insert(ctx, &pass{Record: r, times: times, now: now})
	switch {
	case err != nil:
		return Record{}, err
	case !added:
		return Record{}, ErrExists
	}
	s.wake()
	return *r, nil
}

// accept validates a schedule for this process.
func (s *Scheduler) accept(schedule *Schedule) (*timetable, error) {
	times, err := schedule.compile()
	if err != nil {
		return nil, err
	}
	return times, s.check(schedule)
}

// Replace states a schedule anew. What it has counted stays, firings that wait
// or are missed are forgotten, and the next firing is the first after now.
func (s *Scheduler) Replace(ctx context.Context, schedule Schedule, revision int64) (Record, error) {
	schedule = schedule.withDefaults()
	times, err := s.accept(&schedule)
	if err != nil {
		return Record{}, err
	}
	return s.change(ctx, schedule.ID, revision, func(r *Record, now time.Time) error {
		next := times.next(now)
		if next.IsZero() {
			return fmt.Errorf("%w: it would never fire", ErrInvalid)
		}
		r.Schedule, r.State.Waiting = schedule, time.Time{}
		if !r.State.Paused {
			r.State.Next = next
		}
		return nil
	})
}

// Pause keeps a schedule from firing by itself until it is resumed. Backfills
// and triggers still work.
func (s *Scheduler) Pause(ctx context.Context, id, note string, revision int64) (Record, error) {
	return s.change(ctx, id, revision, func(r *Record, _ time.Time) error {
		r.State.Paused, r.State.Next = true, time.Time{}
		return r.State.setNote(note)
	})
}

// Resume ends a pause. What would have fired meanwhile is not caught up with; see
// [Scheduler.Backfill] for that.
func (s *Scheduler) Resume(ctx context.Context, id, note string, revision int64) (Record, error) {
	return s.change(ctx, id, revision, func(r *Record, now time.Time) error {
		if r.State.Paused {
			times, err := r.compile()
			if err != nil {
				return err
			}
			r.State.Paused, r.State.Next = false, times.next(now)
		}
		return r.State.setNote(note)
	})
}

func (s *State) setNote(note string) error {
	if len(note) > noteBytesMax {
		return fmt.Errorf("%w: the note is longer than %d bytes", ErrInvalid, noteBytesMax)
	}
	s.Note = note
	return nil
}

// Backfill asks for the firings of a time range that lies in the past. A
// scheduler works on it in the background; up to ten wait in line.
func (s *Scheduler) Backfill(ctx context.Context, id string, b Backfill, revision int64) (Record, error) {
	return s.change(ctx, id, revision, func(r *Record, now time.Time) error {
		switch {
		case !b.To.After(b.From):
			return fmt.Errorf("%w: a backfill must end after it begins", ErrInvalid)
		case b.To.After(now):
			return fmt.Errorf("%w: a backfill must end in the past; it is %s", ErrInvalid, now.Format(time.RFC3339))
		case b.From.Year() < 1970:
			return fmt.Errorf("%w: a backfill begins in 1970 or later", ErrInvalid)
		case len(r.State.Backfills) == backfillsMax:
			return fmt.Errorf("%w: %d backfills wait already", ErrInvalid, backfillsMax)
		case b.OneByOne && (!s.commands[r.Do.Command].Saga || s.config.Ended == nil):
			return fmt.Errorf("%w: one by one needs to know when a saga has ended, and %s starts none", ErrInvalid, r.Do.Command)
		}
		b.From, b.To, b.Salt = b.From.UTC(), b.To.UTC(), ""
		if b.Again {
			b.Salt = strconv.FormatInt(r.turn, 10)
		}
		r.State.Backfills = append(slices.Clip(r.State.Backfills), b)
		return nil
	})
}

// Trigger fires a schedule now, paused or not, and returns the firing. Unless
// forced it fails with [ErrOverlap] where a scheduled firing would be skipped or
// held back.
func (s *Scheduler) Trigger(ctx context.Context, id string, force bool) (Firing, error) {
	for {
		r, now, err := s.get(ctx, id)
		if err != nil {
			return Firing{}, err
		}
		times, err := s.accept(&r.Schedule)
		if err != nil {
			return Firing{}, err
		}
		known, err := s.ended(ctx, r)
		if err != nil {
			return Firing{}, err
		}
		r.State.settle(now, known)
		if len(r.State.Running) > 0 && r.Overlap != AllowAll && !force {
			return Firing{}, ErrOverlap
		}
		r.State.UpdatedAt = now
		p := &pass{Record: r, times: times, now: now, budget: 1}
		p.start(now, Triggered, r.State.commandID("trigger"+strconv.FormatInt(r.turn, 10), now), r.Overlap != AllowAll)
		won, err := s.commit(ctx, []*pass{p})
		if err != nil {
			return Firing{}, err
		}
		if won[id] {
			return p.firings[0], nil
		}
	}
}

// change applies what an operator asks for, whatever schedulers do meanwhile.
func (s *Scheduler) change(ctx context.Context, id string, revision int64, apply func(r *Record, now time.Time) error) (Record, error) {
	for {
		r, now, err := s.get(ctx, id)
		if err != nil {
			return Record{}, err
		}
		if revision != AnyRevision && revision != r.Revision {
			return Record{}, fmt.Errorf("%w %d: it is at %d", ErrRevision, revision, r.Revision)
		}
		if err := apply(r, now); err != nil {
			return Record{}, err
		}
		r.Revision++
		r.State.UpdatedAt = now
		times, err := r.compile()
		if err != nil {
			return Record{}, err
		}
		won, err := s.commit(ctx, []*pass{{Record: r, times: times, now: now}})
		if err != nil {
			return Record{}, err
		}
		if won[id] {
			s.wake()
			return *r, nil
		}
	}
}

// Delete removes a schedule and what is known of its firings. Sagas that it has
// started go on.
func (s *Scheduler) Delete(ctx context.Context, id string, revision int64) error {
	if !idPattern.MatchString(id) {
		return ErrNotFound
	}
	tag, err := s.pool.Exec(ctx, "delete from schedule where id = $1 and ($2 = 0 or revision = $2)", id, revision)
	switch {
	case err != nil:
		return fmt.Errorf("delete schedule %s: %w", id, err)
	case tag.RowsAffected() == 1:
		return nil
	}
	r, _, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w %d: it is at %d", ErrRevision, revision, r.Revision)
}

// Get returns one schedule, or [ErrNotFound].
func (s *Scheduler) Get(ctx context.Context, id string) (Record, error) {
	r, _, err := s.get(ctx, id)
	if err != nil {
		return Record{}, err
	}
	return *r, nil
}

// listMax bounds one page of a list.
const listMax = 500

// List returns up to limit schedules (at most 500) in the order of their ids,
// beginning after the id given.
func (s *Scheduler) List(ctx context.Context, after string, limit int) ([]Record, error) {
	rows, err := s.pool.Query(ctx, `
		select `+columns+` from schedule
		where id > $1 collate "C"
		order by id collate "C" limit $2`, after, max(min(limit, listMax), 1))
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Record, error) {
		r, err := scan(row)
		if err != nil {
			return Record{}, err
		}
		return *r, r.unreadable
	})
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	return records, nil
}

// Next returns the nominal times of the next n firings of a schedule, at most
// 1,000: what it would do if nothing overlapped, and if it were not paused.
func (s *Scheduler) Next(ctx context.Context, id string, n int) ([]time.Time, error) {
	r, now, err := s.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Limit > 0 {
		n = min(n, int(min(max(r.Limit-r.State.Scheduled, 0), nextMax)))
	}
	if next := r.State.Next; !next.IsZero() && next.Before(now) {
		now = next.Add(-1) // it is due and about to be decided
	}
	return r.When.Next(now, n)
}

// Firings returns the latest firings of a schedule, newest first, at most 500.
// About a thousand are kept.
func (s *Scheduler) Firings(ctx context.Context, id string, limit int) ([]Firing, error) {
	if _, _, err := s.get(ctx, id); err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `
		select id::text, at, kind, outcome, count, decided_at from schedule_firing
		where schedule_id = $1
		order by decided_at desc, at desc limit $2`, id, max(min(limit, listMax), 1))
	if err != nil {
		return nil, fmt.Errorf("read firings of %s: %w", id, err)
	}
	firings, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Firing])
	if err != nil {
		return nil, fmt.Errorf("read firings of %s: %w", id, err)
	}
	for i := range firings {
		firings[i].At, firings[i].DecidedAt = firings[i].At.UTC(), firings[i].DecidedAt.UTC()
	}
	return firings, nil
}
