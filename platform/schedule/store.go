package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// readDue reads what has been due for longest, the database's time, and how long
// until the next one is due. It takes no locks: schedulers that meet on a
// schedule are told apart by its turn.
func (s *Scheduler) readDue(ctx context.Context) (records []*Record, now time.Time, rest time.Duration, err error) {
	var (
		batch pgx.Batch
		next  *time.Time
	)
	batch.Queue(`
		select clock_timestamp(), (select min(due_at) from schedule)`).
		QueryRow(func(row pgx.Row) error { return row.Scan(&now, &next) })
	batch.Queue(`
		select `+columns+` from schedule
		where due_at <= clock_timestamp()
		order by due_at limit $1`, dueMax).
		Query(func(rows pgx.Rows) error {
			records, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Record, error) { return scan(row) })
			return err
		})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, now, 0, fmt.Errorf("read due schedules: %w", err)
	}
	rest = s.config.Poll
	if next != nil {
		rest = max(next.Sub(now), 0)
	}
	if len(records) > 0 && now.Before(*next) { // it became due between the two
		now = *next
	}
	return records, now.UTC(), rest, nil
}

// columns are what [scan] reads.
const columns = "id, revision, turn, document, state"

// scan reads the columns and what follows them. A schedule that cannot be
// understood is told when it is its turn, so that the others go on.
func scan(row pgx.CollectableRow, more ...any) (*Record, error) {
	var (
		r               Record
		id              string
		document, state []byte
	)
	if err := row.Scan(append([]any{&id, &r.Revision, &r.turn, &document, &state}, more...)...); err != nil {
		return nil, err
	}
	if err := errors.Join(json.Unmarshal(document, &r.Schedule), json.Unmarshal(state, &r.State)); err != nil {
		r.unreadable = fmt.Errorf("schedule %s cannot be read, another release has written it: %w", id, err)
	}
	r.ID = id
	return &r, nil
}

// write stores what was decided about schedules that nobody has changed since
// they were read, and tells which those are.
func (s *Scheduler) write(ctx context.Context, tx pgx.Tx, passes []*pass) (won map[string]bool, err error) {
	n := len(passes)
	ids, turns, revisions := make([]string, n), make([]int64, n), make([]int64, n)
	documents, states, dues := make([]string, n), make([]string, n), make([]*time.Time, n)
	for i, p := range passes {
		document, err := json.Marshal(p.Schedule)
		if err != nil {
			return nil, fmt.Errorf("encode schedule %s: %w", p.ID, err)
		}
		state, err := json.Marshal(p.State)
		if err != nil {
			return nil, fmt.Errorf("encode state of schedule %s: %w", p.ID, err)
		}
		ids[i], turns[i], revisions[i], documents[i], states[i] = p.ID, p.turn, p.Revision, string(document), string(state)
		if due := p.due(s.config.Poll); !due.IsZero() {
			dues[i] = &due
		}
	}
	// In the order of ids, so that two schedulers never wait for each other in a circle.
	rows, err := tx.Query(ctx, `
		with new as materialized (
			select schedule.id, n.revision, n.turn, n.document, n.state, n.due_at
			from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[])
				as n (id, turn, revision, document, state, due_at)
			join schedule on schedule.id = n.id
			where schedule.turn = n.turn
			order by schedule.id
			for update of schedule
		)
		update schedule
		set revision = new.revision, turn = new.turn + 1, document = new.document::json, state = new.state::json, due_at = new.due_at
		from new
		where schedule.id = new.id and schedule.turn = new.turn
		returning schedule.id`, ids, turns, revisions, documents, states, dues)
	if err != nil {
		return nil, fmt.Errorf("advance schedules: %w", err)
	}
	changed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("advance schedules: %w", err)
	}
	won = make(map[string]bool, len(changed))
	for _, id := range changed {
		won[id] = true
	}
	return won, nil
}

// fired returns the ids of the commands that schedules with a backfill have sent.
func (s *Scheduler) fired(ctx context.Context, records []*Record) (map[string]bool, error) {
	var ids []string
	for _, r := range records {
		if len(r.State.Backfills) > 0 {
			ids = append(ids, r.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, "select id::text from schedule_firing where schedule_id = any($1) and outcome = 'started'", ids)
	if err != nil {
		return nil, fmt.Errorf("read what has fired: %w", err)
	}
	sent, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read what has fired: %w", err)
	}
	fired := make(map[string]bool, len(sent))
	for _, id := range sent {
		fired[id] = true
	}
	return fired, nil
}

// firingsKept is how many firings of a schedule are remembered, and pruneEvery
// how many changes of it lie between two prunings.
const (
	firingsKept = 1000
	pruneEvery  = 64
)

// record adds firings to the history of schedules that were won. It returns the
// ids that were not there before: a backfill may come upon what has fired.
func record(ctx context.Context, tx pgx.Tx, passes []*pass, won map[string]bool) (fresh map[string]bool, err error) {
	var (
		ids                      []uuid.UUID
		schedules, kinds, result []string
		ats, decided             []time.Time
		counts                   []int32
		prune                    []string
	)
	for _, p := range passes {
		if !won[p.ID] {
			continue
		}
		for i := range p.firings {
			f := &p.firings[i]
			id, err := uuid.Parse(f.ID)
			if err != nil {
				return nil, fmt.Errorf("id of a firing: %w", err)
			}
			ids, schedules, kinds, result = append(ids, id), append(schedules, p.ID), append(kinds, string(f.Kind)), append(result, string(f.Outcome))
			ats, decided, counts = append(ats, f.At), append(decided, f.DecidedAt), append(counts, int32(f.Count))
		}
		if len(p.firings) > 0 && p.turn%pruneEvery == 0 {
			prune = append(prune, p.ID)
		}
	}
	fresh = make(map[string]bool)
	if len(ids) > 0 {
		rows, err := tx.Query(ctx, `
			insert into schedule_firing (id, schedule_id, kind, outcome, at, decided_at, count)
			select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::integer[])
			on conflict (id) do nothing
			returning id::text`, ids, schedules, kinds, result, ats, decided, counts)
		if err != nil {
			return nil, fmt.Errorf("record firings: %w", err)
		}
		added, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("record firings: %w", err)
		}
		for _, id := range added {
			fresh[id] = true
		}
	}
	for _, id := range prune {
		_, err := tx.Exec(ctx, `
			delete from schedule_firing where schedule_id = $1 and decided_at < (
				select decided_at from schedule_firing where schedule_id = $1 order by decided_at desc offset $2 limit 1)`, id, firingsKept)
		if err != nil {
			return nil, fmt.Errorf("prune firings of %s: %w", id, err)
		}
	}
	return fresh, nil
}

// putOff leaves a schedule alone for a while.
func (s *Scheduler) putOff(ctx context.Context, r *Record) error {
	_, err := s.pool.Exec(ctx, `
		update schedule set due_at = clock_timestamp() + $3::interval
		where id = $1 and turn = $2`, r.ID, r.turn, failedRest)
	if err != nil {
		return fmt.Errorf("put off schedule %s: %w", r.ID, err)
	}
	return nil
}

// get reads one schedule and the database's time.
func (s *Scheduler) get(ctx context.Context, id string) (r *Record, now time.Time, err error) {
	if !idPattern.MatchString(id) {
		return nil, now, ErrNotFound
	}
	rows, err := s.pool.Query(ctx, "select "+columns+", clock_timestamp() from schedule where id = $1", id)
	if err != nil {
		return nil, now, fmt.Errorf("read schedule %s: %w", id, err)
	}
	r, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (*Record, error) { return scan(row, &now) })
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, now, ErrNotFound
	case err != nil:
		return nil, now, fmt.Errorf("read schedule %s: %w", id, err)
	case r.unreadable != nil:
		return nil, now, r.unreadable
	}
	return r, now.UTC(), nil
}

// insert stores a new schedule; false when there is one of that id.
func (s *Scheduler) insert(ctx context.Context, p *pass) (bool, error) {
	document, err := json.Marshal(p.Schedule)
	if err != nil {
		return false, fmt.Errorf("encode schedule %s: %w", p.ID, err)
	}
	state, err := json.Marshal(p.State)
	if err != nil {
		return false, fmt.Errorf("encode state of schedule %s: %w", p.ID, err)
	}
	var due *time.Time
	if at := p.due(s.config.Poll); !at.IsZero() {
		due = &at
	}
	tag, err := s.pool.Exec(ctx, `
		insert into schedule (id, revision, turn, document, state, due_at) values ($1, 1, 1, $2, $3, $4)
		on conflict (id) do nothing`, p.ID, document, state, due)
	if err != nil {
		return false, fmt.Errorf("create schedule %s: %w", p.ID, err)
	}
	return tag.RowsAffected() == 1, nil
}
