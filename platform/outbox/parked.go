package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// look reads, once per [RelayConfig.Balance], what the hot path must not ask for:
// which keys of the relay's lanes wait behind a dead row, and when the next delayed
// event is due. It must come after a lane was taken and before rows of it are read:
// a key that is parked since before is known then, and one that is requeued after it
// is found out by park.
func (r *Relay) look(ctx context.Context, conn *pgx.Conn, lanes []int) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var (
		batch pgx.Batch
		wait  *float64 // seconds
	)
	parked := make(map[string]bool)
	batch.Queue("select distinct key from outbox_dead where parks and lane = any($1::smallint[])", lanes).Query(func(rows pgx.Rows) error {
		var key string
		_, err := pgx.ForEachRow(rows, []any{&key}, func() error {
			parked[key] = true
			return nil
		})
		return err
	})
	batch.Queue("select extract(epoch from min(due_at) - clock_timestamp()) from outbox_delayed where lane = any($1::smallint[])", lanes).QueryRow(func(row pgx.Row) error {
		return row.Scan(&wait)
	})
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("look for parked keys and delayed events: %w", err)
	}
	r.parked = parked
	r.parkedKeys.Set(float64(len(parked)))
	r.releaseAt = time.Time{}
	if wait != nil {
		r.releaseAt = time.Now().Add(time.Duration(min(*wait, 3600) * float64(time.Second)))
	}
	return nil
}

// park sets rows aside whose key waits behind a dead row. It locks the dead row, so
// that it cannot be requeued or discarded meanwhile: rows whose key is free again by
// then stay, and are read again behind what was requeued.
func (r *Relay) park(ctx context.Context, conn *pgx.Conn, rows []row, keys []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	lanes, ids := make([]int16, len(rows)), make([]int64, len(rows))
	for i := range rows {
		lanes[i], ids[i] = rows[i].Lane, rows[i].ID
	}
	var parked int
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// In a statement of its own: the next one must see what the lock has waited for.
		_, err := tx.Exec(ctx, "select from outbox_dead where parks and lane = any($1::smallint[]) and key = any($2::text[]) order by id for update", lanes, keys)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			with gone as (
				delete from outbox using unnest($1::smallint[], $2::bigint[], $3::text[]) as p (lane, id, key)
				where outbox.lane = p.lane and outbox.id = p.id
					and exists (select from outbox_dead as d where d.parks and d.lane = p.lane and d.key = p.key)
				returning outbox.*, p.key
			)
			insert into outbox_dead (id, lane, key, state, publish_id, topic, attributes, data, created_at, error)
			select id, lane, key, 'parked', publish_id, topic, attributes, data, created_at, '' from gone`, lanes, ids, keys)
		parked = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("park outbox rows: %w", err)
	}
	return parked, nil
}

// bury sets a row aside that no broker will ever take, so that the lane goes on.
// Later rows of its key wait for it; a row that cannot be read has none.
func (r *Relay) bury(ctx context.Context, conn *pgx.Conn, row row, key string, parks bool, reason error) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, `
		with gone as (
			delete from outbox where lane = $1 and id = $2 returning *
		)
		insert into outbox_dead (id, lane, key, parks, publish_id, topic, attributes, data, created_at, error)
		select id, lane, $3, $4, $6, topic, attributes, data, created_at, $5 from gone`,
		row.Lane, row.ID, key, parks, printable(reason.Error()), row.PublishID)
	if err != nil {
		return fmt.Errorf("set outbox row %d aside: %w", row.ID, err)
	}
	if parks {
		r.parked[key] = true
		r.parkedKeys.Set(float64(len(r.parked)))
	}
	r.dead.Inc()
	r.config.Logger.ErrorContext(ctx, "outbox row set aside", "outbox", r.config.Name, "row", row.ID, "topic", row.Topic, "key", key, "error", reason)
	return nil
}
