package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// ErrDelayedExists means that an event with that publish id is delayed already.
var ErrDelayedExists = errors.New("an event with this publish id is delayed already")

// WriteAt keeps messages until a time, by the database's clock, and has them
// published then: a relay moves them to the outbox in one statement. They are at
// most a second late while a relay runs, as a rule a few milliseconds when they were
// written more than a second ahead, and never early. A time that has passed means at
// once.
//
// Delayed messages of one key that are due at different times are published in that
// order, those of the same time in the order in which they were written. Toward
// messages that [Write] takes they have no order, and they do not change that of
// others. Each must have a publish id of its own, by which [Cancel] finds it; one
// that is taken fails the statement with [ErrDelayedExists].
func WriteAt(ctx context.Context, tx pgx.Tx, at time.Time, messages ...broker.Message) error {
	n := len(messages)
	if n == 0 {
		return nil
	}
	lanes, publishIDs, topics := make([]int16, n), make([]string, n), make([]string, n)
	attributes, data := make([][]byte, n), make([][]byte, n)
	for i := range messages {
		m := &messages[i]
		if err := Check(m); err != nil {
			return fmt.Errorf("delay event %s: %w", m.Event.ID, err)
		}
		lanes[i] = int16(broker.Partition(m.Event.Key(), Lanes))
		publishIDs[i], topics[i] = m.PublishID, string(m.Topic)
		attributes[i], data[i] = events.AppendAttributes(nil, &m.Event), m.Event.Data
	}
	tag, err := tx.Exec(ctx, `
		insert into outbox_delayed (id, lane, due_at, publish_id, topic, attributes, data)
		select publish_id, lane, $6, publish_id, topic, attributes, data
		from unnest($1::smallint[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
			with ordinality as m (lane, publish_id, topic, attributes, data, n)
		order by n
		on conflict (id) do nothing`, lanes, publishIDs, topics, attributes, data, at)
	if err != nil {
		return fmt.Errorf("delay events: %w", err)
	}
	if stored := int(tag.RowsAffected()); stored != n {
		return fmt.Errorf("%w: %d of %d are new; roll back, and give each event a publish id of its own", ErrDelayedExists, stored, n)
	}
	return nil
}

// Cancel gives a delayed message up, in tx. It reports whether there was one: not
// when it was published, is about to be, or was cancelled.
func Cancel(ctx context.Context, tx pgx.Tx, publishID string) (bool, error) {
	tag, err := tx.Exec(ctx, "delete from outbox_delayed where id = $1", publishID)
	if err != nil {
		return false, fmt.Errorf("cancel delayed event %s: %w", publishID, err)
	}
	return tag.RowsAffected() > 0, nil
}

// release moves what is due to the outbox. The lanes are this relay's, so that no
// other one gives later ids to what was due earlier. It reports whether there may
// be more.
func (r *Relay) release(ctx context.Context, conn *pgx.Conn, lanes []int) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	tag, err := conn.Exec(ctx, `
		with due as (
			delete from outbox_delayed where id in (
				select id from outbox_delayed
				where due_at <= clock_timestamp() and lane = any($1::smallint[])
				order by due_at, seq limit $2 for update)
			returning *
		)
		insert into outbox (lane, publish_id, topic, attributes, data)
		select lane, publish_id, topic, attributes, data from due order by due_at, seq`, lanes, r.config.BatchMax)
	if err != nil {
		return false, fmt.Errorf("release delayed events: %w", err)
	}
	n := tag.RowsAffected()
	r.released.Add(float64(n))
	return n == int64(r.config.BatchMax), nil
}
