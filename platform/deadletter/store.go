package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
)

// Limits.
const (
	// ListMax is the most letters of one page.
	ListMax = 500
	// RedrivesMax is how often a letter may be redriven before it takes force: what
	// has died that often dies again.
	RedrivesMax = 3
)

// Store is the dead letters of one database. It is safe for concurrent use.
type Store struct {
	service string
	pool    *pgxpool.Pool
}

// NewStore returns the dead letters in pool's database; service begins the names
// of its letters.
func NewStore(service string, pool *pgxpool.Pool) *Store { return &Store{service, pool} }

// Service returns the name of the service whose letters these are.
func (s *Store) Service() string { return s.service }

const summaryColumns = `id, state, consumer, reason, error, attempts, redrives, topic, partition, position, key, parks,
	event_id, event_type, correlation, stored_at, died_at, revision, replayed, again`

// targets returns where the columns go.
func (l *Summary) targets(id *int64) []any {
	return []any{
		id, &l.State, &l.Consumer, &l.Reason, &l.Error, &l.Attempts, &l.Redrives, &l.Topic, &l.Partition, &l.Position, &l.Key, &l.HoldsKey,
		&l.EventID, &l.EventType, &l.CorrelationID, &l.StoredAt, &l.DiedAt, &l.Revision, &l.Replayed, &l.Again,
	}
}

// where is the condition of a filter, on the arguments that [Filter.arguments] returns.
const where = `
	($1 = '' or state = $1) and ($2 = '' or consumer = $2) and ($3 = '' or topic = $3) and ($4 = '' or key = $4)
	and ($5 = '' or event_type = $5) and ($6 = '' or reason = $6) and ($7 = '' or strpos(error, $7) > 0)
	and ($8 = '' or correlation = $8) and ($9::timestamptz is null or died_at >= $9) and ($10::timestamptz is null or died_at < $10)`

func (f *Filter) arguments(more ...any) []any {
	stated := func(at time.Time) *time.Time {
		if at.IsZero() {
			return nil
		}
		return &at
	}
	return append([]any{
		string(f.State), f.Consumer, f.Topic, f.Key, f.EventType, f.Reason, f.Error, f.CorrelationID, stated(f.DiedAfter), stated(f.DiedBefore),
	}, more...)
}

// List returns the newest letters that the filter selects, at most limit, that are
// older than the one numbered before; 0 begins with the newest.
func (s *Store) List(ctx context.Context, filter Filter, before int64, limit int) ([]Summary, error) {
	rows, _ := s.pool.Query(ctx, `
		select `+summaryColumns+` from dead_letter
		where `+where+` and ($11 = 0 or id < $11)
		order by id desc limit $12`, filter.arguments(before, min(limit, ListMax))...)
	var (
		all []Summary
		one Summary
		id  int64
	)
	_, err := pgx.ForEachRow(rows, one.targets(&id), func() error {
		one.ID, one.Service = name(s.service, id), s.service
		all = append(all, one)
		one.StoredAt = nil // the next row must not share it
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters of %s: %w", s.service, err)
	}
	return all, nil
}

// Groups counts the letters that the filter selects, the most first.
func (s *Store) Groups(ctx context.Context, filter Filter) ([]Group, error) {
	rows, _ := s.pool.Query(ctx, `
		select consumer, topic, event_type, reason, state, count(*), min(died_at), max(died_at) from dead_letter
		where `+where+`
		group by 1, 2, 3, 4, 5 order by 6 desc, 1, 2, 3, 4, 5 limit 1000`, filter.arguments()...)
	var (
		all []Group
		g   = Group{Service: s.service}
	)
	_, err := pgx.ForEachRow(rows, []any{&g.Consumer, &g.Topic, &g.EventType, &g.Reason, &g.State, &g.Count, &g.Oldest, &g.Newest}, func() error {
		all = append(all, g)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("group dead letters of %s: %w", s.service, err)
	}
	return all, nil
}

// Get returns one letter. Of one that is gone the error, wrapping [ErrNotFound],
// says what became of it.
func (s *Store) Get(ctx context.Context, id int64) (Letter, error) {
	var letter Letter
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		letter, err = s.get(ctx, tx, id)
		return err
	})
	return letter, err
}

func (s *Store) get(ctx context.Context, tx pgx.Tx, id int64) (l Letter, err error) {
	var (
		attributes, data []byte
		number, behind   int64
	)
	log, end, err := s.log(ctx, tx, id)
	if err != nil {
		return l, err
	}
	err = tx.QueryRow(ctx, `
		select `+summaryColumns+`, attributes, data, case when state = 'parked' then coalesce((
			select min(b.id) from dead_letter as b
			where b.consumer = l.consumer and b.topic = l.topic and b.partition = l.partition and b.key = l.key and b.parks
				and b.state <> 'parked' and b.id < l.id), 0) else 0 end
		from dead_letter as l where id = $1`, id).Scan(append(l.targets(&number), &attributes, &data, &behind)...)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && end != "":
		return l, fmt.Errorf("%w: %s", ErrNotFound, end)
	case errors.Is(err, pgx.ErrNoRows):
		return l, ErrNotFound
	case err != nil:
		return l, fmt.Errorf("dead letter %s: %w", name(s.service, id), err)
	}
	l.ID, l.Service, l.Log = name(s.service, id), s.service, log
	if behind > 0 {
		l.Behind = name(s.service, behind)
	}
	if l.Event = structured(attributes, data); l.Event == nil {
		l.Attributes, l.Data = readable(attributes), data
	}
	return l, nil
}

// log returns what was done to a letter, and what became of it if it is gone.
func (s *Store) log(ctx context.Context, tx pgx.Tx, id int64) (log []LogEntry, end string, err error) {
	rows, _ := tx.Query(ctx, "select verb, done_by, note, done_at, attributes, data from dead_letter_log where letter = $1 order by id", id)
	var (
		one              LogEntry
		attributes, data []byte
	)
	log = []LogEntry{}
	_, err = pgx.ForEachRow(rows, []any{&one.Verb, &one.By, &one.Note, &one.At, &attributes, &data}, func() error {
		one.Before = nil
		switch one.Verb {
		case "edit":
			one.Before = structured(attributes, data)
		case "handled":
			end = "it was handled at " + one.At.UTC().Format(time.RFC3339)
		case "discard":
			end = fmt.Sprintf("it was discarded at %s by %s: %s", one.At.UTC().Format(time.RFC3339), one.By, one.Note)
		}
		log = append(log, one)
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("log of dead letter %s: %w", name(s.service, id), err)
	}
	return log, end, nil
}

// content is the event of a letter as it is stored.
type content struct{ attributes, data []byte }

func contentOf(e *events.Event) content { return content{events.AppendAttributes(nil, e), e.Data} }
