package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/share"
)

// StuckMax is the most rows that [Outbox.Stuck] returns of one outbox.
const StuckMax = 500

// Outbox is the outbox of one database. It is safe for concurrent use.
type Outbox struct {
	service string
	pool    *pgxpool.Pool
	relay   *outbox.Relay
}

// New returns the outbox in pool's database; service begins the names of its rows.
// relay is the one of this process, or nil when it has none.
func New(service string, pool *pgxpool.Pool, relay *outbox.Relay) *Outbox {
	return &Outbox{service, pool, relay}
}

// Service returns the name of the service whose outbox it is.
func (o *Outbox) Service() string { return o.service }

// Status tells how much waits, in each lane and in all. It counts no further than
// [outbox.CountMax], so it may be asked for every second.
func (o *Outbox) Status(ctx context.Context) (Status, error) {
	s := Status{Service: o.service, Lanes: make([]Lane, outbox.Lanes)}
	owners, err := share.Owners(ctx, o.pool, "outbox")
	if err != nil {
		return s, err
	}
	for i := range s.Lanes {
		s.Lanes[i].Lane = i
		if owner, ok := owners[i]; ok {
			s.Lanes[i].Owner = &owner
		}
	}
	var batch pgx.Batch
	// Of a lane the row of the lowest id stands for the oldest one.
	batch.Queue(`
		select l.lane, w.n, o.created_at from generate_series(0, $1::int - 1) as l (lane)
		cross join lateral (
			select count(*) as n from (select from outbox where outbox.lane = l.lane limit $2) as first
		) as w
		cross join lateral (
			select created_at from outbox where outbox.lane = l.lane order by id limit 1
		) as o`, outbox.Lanes, outbox.CountMax).Query(func(rows pgx.Rows) error {
		var (
			lane, n int
			oldest  time.Time
		)
		_, err := pgx.ForEachRow(rows, []any{&lane, &n, &oldest}, func() error {
			at := oldest
			s.Lanes[lane].Waiting, s.Lanes[lane].Oldest = n, &at
			s.Waiting += n
			if s.Oldest == nil || at.Before(*s.Oldest) {
				s.Oldest = &at
			}
			return nil
		})
		return err
	})
	batch.Queue(`
		select lane, count(*) filter (where state = 'dead'), count(*) filter (where state = 'parked')
		from outbox_dead group by lane`).Query(func(rows pgx.Rows) error {
		var lane, dead, parked int
		_, err := pgx.ForEachRow(rows, []any{&lane, &dead, &parked}, func() error {
			s.Lanes[lane].Dead = dead
			s.Dead, s.Parked = s.Dead+dead, s.Parked+parked
			return nil
		})
		return err
	})
	batch.Queue(`
		select (select count(*) from (select from outbox_delayed limit $1) as first), (select min(due_at) from outbox_delayed)`,
		outbox.CountMax).QueryRow(func(row pgx.Row) error { return row.Scan(&s.Delayed, &s.NextDue) })
	if err := o.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return s, fmt.Errorf("status of the outbox of %s: %w", o.service, err)
	}
	if o.relay != nil {
		if state := o.relay.State(); state.Failure != "" {
			s.Failure, s.FailingSince = state.Failure, &state.FailingSince
		}
	}
	return s, nil
}

// Stuck returns the rows that were written longer ago than that, and why each is not
// published: what is dead or parked first, then what waits; the oldest first of
// both, at most limit.
func (o *Outbox) Stuck(ctx context.Context, older time.Duration, limit int) ([]Row, error) {
	owners, err := share.Owners(ctx, o.pool, "outbox")
	if err != nil {
		return nil, err
	}
	failure := ""
	own := make(map[int]bool)
	if o.relay != nil {
		state := o.relay.State()
		failure = state.Failure
		for _, lane := range state.Lanes {
			own[lane] = true
		}
	}
	rows, _ := o.pool.Query(ctx, `
		select * from (
			select l.id, l.lane, l.state, l.topic, l.publish_id, l.attributes, l.created_at, l.error, `+behind+`
			from outbox_dead as l where created_at < clock_timestamp() - $1::interval order by id limit $2
		) as aside
		union all
		select * from (
			select id, lane, 'waiting', topic, publish_id, attributes, created_at, '', 0
			from outbox where created_at < clock_timestamp() - $1::interval order by id limit $2
		) as waiting
		limit $2`, older, max(min(limit, StuckMax), 1))
	var (
		all []Row
		one stored
	)
	_, err = pgx.ForEachRow(rows, []any{&one.id, &one.lane, &one.state, &one.topic, &one.publishID, &one.attributes, &one.createdAt, &one.text, &one.behind}, func() error {
		r, _ := one.row(o.service)
		if r.State == Waiting {
			owner, owned := owners[r.Lane]
			switch {
			case !owned:
				r.Why = "no relay owns its lane: is the service running, with a direct connection to the database?"
			case own[r.Lane] && failure != "":
				r.Why = "the relay waits: " + failure
			case own[r.Lane]:
				r.Why = "earlier rows of its lane go first"
			default:
				r.Why = fmt.Sprintf("earlier rows of its lane go first, or its relay waits; ask the process of %s (backend %d)", owner.Application, owner.PID)
			}
		}
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("stuck rows of the outbox of %s: %w", o.service, err)
	}
	return all, nil
}

// behind is the dead row that a parked one, l, waits for.
const behind = `case when l.state = 'parked' then coalesce((
	select min(d.id) from outbox_dead as d where d.parks and d.lane = l.lane and d.key = l.key), 0) else 0 end`

// Get returns a row that is set aside. Of one that is gone the error, wrapping
// [ErrNotFound], says what was done to it.
func (o *Outbox) Get(ctx context.Context, id int64) (Detail, error) {
	var d Detail
	err := pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		d, err = o.get(ctx, tx, id)
		return err
	})
	return d, err
}

func (o *Outbox) get(ctx context.Context, tx pgx.Tx, id int64) (d Detail, err error) {
	rows, _ := tx.Query(ctx, "select verb, done_by, note, done_at from outbox_log where row = $1 order by id", id)
	d.Log, err = pgx.CollectRows(rows, pgx.RowToStructByPos[LogEntry])
	if err != nil {
		return d, fmt.Errorf("log of outbox row %s: %w", name(o.service, id), err)
	}
	var s stored
	err = tx.QueryRow(ctx, `
		select l.id, l.lane, l.state, l.topic, l.publish_id, l.attributes, l.data, l.created_at, l.error, `+behind+`
		from outbox_dead as l where id = $1`, id,
	).Scan(&s.id, &s.lane, &s.state, &s.topic, &s.publishID, &s.attributes, &s.data, &s.createdAt, &s.text, &s.behind)
	switch n := len(d.Log); {
	case errors.Is(err, pgx.ErrNoRows) && n > 0:
		last := d.Log[n-1]
		return d, fmt.Errorf("%w: %s by %s at %s: %s", ErrNotFound, last.Verb, last.By, last.At.UTC().Format(time.RFC3339), last.Note)
	case errors.Is(err, pgx.ErrNoRows):
		return d, ErrNotFound
	case err != nil:
		return d, fmt.Errorf("outbox row %s: %w", name(o.service, id), err)
	}
	d.Row, d.Event = s.row(o.service)
	return d, nil
}

// Flushed is what [Outbox.Flush] has reached.
type Flushed struct {
	Service string `json:"service"`
	// Left is how many of the rows that were there at the start are still there.
	Left int `json:"left"`
	// Failure is why the relay of this process waits, if it does.
	Failure string `json:"failure,omitempty"`
}

// Flush wakes the relay of this process and waits, for at most that long, until the
// rows that are there now are gone. What is set aside or delayed is not among them.
func (o *Outbox) Flush(ctx context.Context, most time.Duration) (Flushed, error) {
	f := Flushed{Service: o.service}
	var last int64
	if err := o.pool.QueryRow(ctx, "select coalesce(max(id), 0) from outbox").Scan(&last); err != nil {
		return f, fmt.Errorf("flush the outbox of %s: %w", o.service, err)
	}
	for limit := time.Now().Add(most); ; {
		if o.relay != nil {
			o.relay.Wake()
		}
		if err := o.pool.QueryRow(ctx, "select count(*) from (select from outbox where id <= $1 limit $2) as first", last, outbox.CountMax).Scan(&f.Left); err != nil {
			return f, fmt.Errorf("flush the outbox of %s: %w", o.service, err)
		}
		if f.Left == 0 {
			return f, nil
		}
		rest := time.Until(limit)
		if rest <= 0 {
			if o.relay != nil {
				f.Failure = o.relay.State().Failure
			}
			return f, nil
		}
		select {
		case <-time.After(min(rest, 50*time.Millisecond)):
		case <-ctx.Done():
			return f, ctx.Err()
		}
	}
}
