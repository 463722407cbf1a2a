package saga

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// grantsMax is how many locks one transaction gives away.
const grantsMax = 256

// asked is a row of saga_lock.
type asked struct {
	key  string
	saga uuid.UUID
	step string
	lost bool
}

// grant takes locks away that were held for too long and gives free ones to those
// who have waited for longest, in one transaction with what the sagas make of it.
// One engine at a time does so. It returns how many changed hands.
func (e *Engine) grant(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tx, err := e.pool.Begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var mine bool
	if err := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock(hashtext('saga_lock'))").Scan(&mine); err != nil || !mine {
		return 0, err
	}
	changing, err := e.changingHands(ctx, tx)
	if err != nil || len(changing) == 0 {
		return 0, err
	}
	slices.SortFunc(changing, func(a, b asked) int { return bytes.Compare(a.saga[:], b.saga[:]) })
	ids := make([]uuid.UUID, len(changing))
	for i := range changing {
		ids[i] = changing[i].saga
	}
	t := e.newTransition()
	if t.found, t.now, err = load(ctx, tx, ids); err != nil {
		return 0, err
	}
	var out pgx.Batch
	for _, a := range changing {
		verdict := Ignored
		if saga, ok := t.found[a.saga]; ok {
			if verdict, err = t.decide(ctx, saga, Input{Lock: &LockInput{Step: a.step, Lost: a.lost}}, nil); err != nil {
				continue // another engine has its definition: it stays as it is
			}
		}
		if a.lost || verdict == Ignored { // of a saga that has no use for it
			out.Queue("delete from saga_lock where key = $1 and saga_id = $2 and step = $3", a.key, [16]byte(a.saga), a.step)
			continue
		}
		out.Queue(`
			update saga_lock set granted_at = clock_timestamp(), expires_at = clock_timestamp() + ttl
			where key = $1 and saga_id = $2 and step = $3`, a.key, [16]byte(a.saga), a.step)
		out.Queue("update saga_bucket set tokens = tokens - 1 where key = $1", a.key)
		n++
	}
	return n, t.write(ctx, &out, func(batch *pgx.Batch) error {
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
}

// changingHands returns the locks that are to be taken away, and those that can be
// given. A key with a rate has a bucket of tokens, of which each grant takes one.
func (e *Engine) changingHands(ctx context.Context, tx pgx.Tx) ([]asked, error) {
	rows, err := tx.Query(ctx, `
		with expired as (
			select key, saga_id, step, seq from saga_lock where expires_at <= clock_timestamp()
		), bucket as (
			insert into saga_bucket as b (key, rate, tokens, filled_at)
			select key, max(rate), greatest(max(rate), 1), clock_timestamp() from saga_lock where rate > 0 and granted_at is null group by key
			on conflict (key) do update set rate = excluded.rate, filled_at = clock_timestamp(),
				tokens = least(excluded.tokens, b.tokens + excluded.rate * extract(epoch from clock_timestamp() - b.filled_at))
			returning key, tokens
		), ranked as (
			select l.key, l.saga_id, l.step, l.slots, l.granted_at, l.seq,
				row_number() over (partition by l.key order by l.granted_at is null, l.seq) as place,
				row_number() over (partition by l.key, l.granted_at is null order by l.seq) as turn
			from saga_lock as l
			where not exists (select from expired as x where x.key = l.key and x.saga_id = l.saga_id and x.step = l.step)
		), free as (
			select r.key, r.saga_id, r.step, r.seq from ranked as r left join bucket as b on b.key = r.key
			where r.granted_at is null and r.place <= r.slots and (b.key is null or r.turn <= b.tokens)
			order by r.seq limit $1
		)
		select key, saga_id, step, true from expired
		union all select key, saga_id, step, false from free`, grantsMax)
	if err != nil {
		return nil, fmt.Errorf("read locks: %w", err)
	}
	changing, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a asked, err error) {
		err = row.Scan(&a.key, &a.saga, &a.step, &a.lost)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read locks: %w", err)
	}
	return changing, nil
}
