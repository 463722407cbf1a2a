// Package intake takes commands into the gateway's own database, for routes that
// accept while the broker is away. The command is committed to the outbox there, and a
// relay of that outbox publishes it when the broker takes it.
package intake

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the intake. The outbox has its own beside it.
func Migrations() fs.FS { return migrations }

const (
	// acceptedTogether is how many commands share a commit at most.
	acceptedTogether = 500
	acceptTimeout    = 5 * time.Second
	// waitingMax bounds the commands in memory whose commit has not come.
	waitingMax = 8192
	// keptFor is for how long a key is known after its command was published: by far
	// longer than an engine that runs takes to begin the operation.
	keptFor = 7 * 24 * time.Hour
	// begunWithin is for how long after its command was published an operation may not
	// be begun yet.
	begunWithin   = 24 * time.Hour
	upkeepEvery   = time.Minute
	forgottenMost = 10_000 // by one statement
)

// Intake commits commands. It is safe for concurrent use, and any number of processes
// may have one on the same database.
type Intake struct {
	pool    *pgxpool.Pool
	wake    func()
	logger  *slog.Logger
	batcher *postgres.Batcher[asked, told]
	waiting atomic.Int64
}

type asked struct {
	message     broker.Message
	fingerprint string // empty: it has no key
}

type told struct {
	first    string
	repeated bool
}

// New returns an intake into the pool's database, which has had [Migrations] and those
// of the outbox. wake is told after every commit: a relay's Wake. A nil logger means
// slog.Default.
func New(pool *pgxpool.Pool, wake func(), logger *slog.Logger) *Intake {
	if logger == nil {
		logger = slog.Default()
	}
	i := &Intake{pool: pool, wake: wake, logger: logger}
	i.batcher = postgres.NewBatcher(acceptedTogether, acceptTimeout, i.commit)
	return i
}

// Accept commits a command; its nil error is the durable ack. A command with a
// fingerprint has a key, from which its publish id derives: when one of that id was
// accepted before, nothing is stored, repeated is true and first is the fingerprint of
// that one. The error wraps [broker.ErrRejected] for a command that no broker would take,
// and [broker.ErrOverloaded] when too many wait for their commit; after any other it may
// have been stored.
func (i *Intake) Accept(ctx context.Context, m broker.Message, fingerprint string) (first string, repeated bool, err error) {
	if err := outbox.Check(&m); err != nil {
		return "", false, err
	}
	if i.waiting.Add(1) > waitingMax {
		i.waiting.Add(-1)
		return "", false, fmt.Errorf("%w: %d commands wait for their commit", broker.ErrOverloaded, waitingMax)
	}
	answer, err := i.batcher.Do(ctx, asked{m, fingerprint})
	i.waiting.Add(-1)
	if err != nil {
		return "", false, fmt.Errorf("accept command: %w", err)
	}
	return answer.first, answer.repeated, nil
}

// commit stores what is new of the commands in one transaction.
func (i *Intake) commit(ctx context.Context, all []asked) ([]told, error) {
	var answers []told
	err := postgres.InTx(ctx, i.pool, func(tx pgx.Tx) error {
		var err error
		if answers, err = recognise(ctx, tx, all); err != nil {
			return err
		}
		messages := make([]broker.Message, 0, len(all))
		for n := range all {
			if !answers[n].repeated {
				messages = append(messages, all[n].message)
			}
		}
		return outbox.Write(ctx, tx, messages...)
	})
	if err != nil {
		return nil, err
	}
	i.wake()
	return answers, nil
}

// recognise finds out which commands repeat one of before, and notes the keys of the
// others.
func recognise(ctx context.Context, tx pgx.Tx, all []asked) ([]told, error) {
	answers := make([]told, len(all))
	first := make(map[string]int) // of an id, within these
	var ids []string
	for n := range all {
		id := all[n].message.PublishID
		if all[n].fingerprint == "" {
			continue
		}
		if _, twice := first[id]; !twice {
			first[id] = n
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return answers, nil
	}
	slices.Sort(ids) // or two batches would wait for each other
	fingerprints := make([]string, len(ids))
	for n, id := range ids {
		fingerprints[n] = all[first[id]].fingerprint
	}
	// The second statement sees what another transaction committed while the first
	// waited for it.
	rows, err := tx.Query(ctx, `
		insert into intake_key (id, fingerprint)
		select id, fingerprint from unnest($1::text[], $2::text[]) with ordinality as k (id, fingerprint, n) order by n
		on conflict (id) do nothing
		returning id`, ids, fingerprints)
	if err != nil {
		return nil, err
	}
	noted, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	known := make(map[string]string) // from before these
	if len(noted) < len(ids) {
		var id, fingerprint string
		rows, err := tx.Query(ctx, "select id, fingerprint from intake_key where id = any($1)", ids)
		if err != nil {
			return nil, err
		}
		_, err = pgx.ForEachRow(rows, []any{&id, &fingerprint}, func() error { known[id] = fingerprint; return nil })
		if err != nil {
			return nil, err
		}
		for _, id := range noted {
			delete(known, id)
		}
	}
	for n := range all {
		id := all[n].message.PublishID
		if all[n].fingerprint == "" {
			continue
		}
		if before, ok := known[id]; ok {
			answers[n] = told{before, true}
		} else if first[id] != n {
			answers[n] = told{all[first[id]].fingerprint, true}
		}
	}
	return answers, nil
}

// Oldest returns since when the command has waited that has waited for the broker the
// longest, of those that wait or that did within a day: of these the engine may not have
// begun all. It is the zero time when there are none.
func (i *Intake) Oldest(ctx context.Context) (time.Time, error) {
	oldest, err := i.oldestWaiting(ctx)
	if err != nil {
		return oldest, err
	}
	var noted time.Time
	err = i.pool.QueryRow(ctx, "select oldest_at from intake_backlog where noted_at > clock_timestamp() - $1::interval", begunWithin).Scan(&noted)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return oldest, nil
	case err != nil:
		return oldest, fmt.Errorf("oldest command that waited for the broker: %w", err)
	case oldest.IsZero() || noted.Before(oldest):
		return noted, nil
	}
	return oldest, nil
}

// note keeps since when commands wait, for when they no longer do.
func (i *Intake) note(ctx context.Context) error {
	oldest, err := i.oldestWaiting(ctx)
	if err != nil || oldest.IsZero() {
		return err
	}
	_, err = i.pool.Exec(ctx, `
		insert into intake_backlog as b (oldest_at, noted_at) values ($1, clock_timestamp())
		on conflict (one) do update set noted_at = excluded.noted_at, oldest_at = case
			when b.noted_at > clock_timestamp() - $2::interval then least(b.oldest_at, excluded.oldest_at) else excluded.oldest_at end`,
		oldest, begunWithin)
	if err != nil {
		return fmt.Errorf("note since when commands wait for the broker: %w", err)
	}
	return nil
}

func (i *Intake) oldestWaiting(ctx context.Context) (time.Time, error) {
	var oldest *time.Time
	// The row of the lowest id stands for its lane: there may be millions.
	err := i.pool.QueryRow(ctx, `
		select min(created_at) from (
			select o.created_at from generate_series(0, $1::int - 1) as l (lane), lateral (
				select created_at from outbox where outbox.lane = l.lane order by id limit 1
			) as o
		) as waiting`, outbox.Lanes).Scan(&oldest)
	if err != nil {
		return time.Time{}, fmt.Errorf("oldest command that waits for the broker: %w", err)
	}
	if oldest == nil {
		return time.Time{}, nil
	}
	return *oldest, nil
}

// Durability tells what a commit of the database survives: "fsync" when it is on disk,
// "replicated" when it is on another server's as well, "memory" when it is neither.
func (i *Intake) Durability(ctx context.Context) (string, error) {
	var fsync, commit, standbys string
	err := i.pool.QueryRow(ctx, "select current_setting('fsync'), current_setting('synchronous_commit'), current_setting('synchronous_standby_names')").
		Scan(&fsync, &commit, &standbys)
	switch {
	case err != nil:
		return "", fmt.Errorf("durability of the gateway's database: %w", err)
	case commit == "off" || fsync == "off":
		return "memory", nil
	case strings.TrimSpace(standbys) != "" && commit != "local":
		return "replicated", nil
	}
	return "fsync", nil
}

// Run notes since when commands wait for the broker, and forgets keys a week after they
// were used, until ctx ends; then it returns nil.
func (i *Intake) Run(ctx context.Context) error {
	rest := time.NewTicker(upkeepEvery)
	defer rest.Stop()
	for {
		if err := errors.Join(i.note(ctx), i.forget(ctx, keptFor)); err != nil && ctx.Err() == nil {
			i.logger.WarnContext(ctx, "upkeep of the intake", "error", err)
		}
		select {
		case <-rest.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// forget removes keys that are that old. While the broker is away it removes none of
// which the command still waits, which the engine cannot know.
func (i *Intake) forget(ctx context.Context, age time.Duration) error {
	oldest, err := i.oldestWaiting(ctx)
	if err != nil {
		return err
	}
	for {
		tag, err := i.pool.Exec(ctx, `
			delete from intake_key where id in (
				select id from intake_key
				where accepted_at < clock_timestamp() - $1::interval
					and ($2::timestamptz is null or accepted_at < $2::timestamptz - interval '1 minute')
				limit $3
			)`, age, orNull(oldest), forgottenMost)
		if err != nil || tag.RowsAffected() < forgottenMost {
			return err
		}
	}
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
