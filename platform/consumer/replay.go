package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// InsertReplay puts a message of a topic among the rows that its consumer is to
// handle, as if it were a dead letter that is redriven: in the consumer's process,
// after what was put there before of its partition key, in a transaction of its own.
// It waits behind a dead letter that holds its key. again has it handled although the
// inbox knows it. The id is 0 when the message has a row already.
//
// Package deadletter has the verb for operators, with its guards.
func InsertReplay(ctx context.Context, tx pgx.Tx, consumer string, d *broker.Delivery, again bool) (id int64, err error) {
	l := letterOf(d, 0, nil)
	err = tx.QueryRow(ctx, `
		with held as (
			select exists (
				select from dead_letter
				where consumer = $1 and topic = $2 and partition = $3 and key = $9 and parks
			) as is
		)
		insert into dead_letter (consumer, topic, partition, position, event_id, event_type, attributes, data, attempts, error,
			state, reason, key, correlation, parks, stored_at, replayed, again)
		select $1, $2, $3, $4, $5, $6, $7, $8, 0, '',
			case when held.is then 'parked' else 'redriving' end, '', $9, $10, held.is, $11, true, $12
		from held
		on conflict do nothing
		returning id`,
		consumer, string(d.Topic), d.Partition, int64(d.Offset), printable(d.Event.ID), printable(d.Event.Type),
		events.AppendAttributes(nil, &d.Event), d.Event.Data, printable(l.key), printable(d.Event.CorrelationID), storedAt(d), again,
	).Scan(&id)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("replay %s: %w", d.Event.ID, err)
	}
	return id, nil
}

// decided reports that an operator wants the delivery handled whatever the inbox may
// have forgotten of it. A replay alone does not say so: it takes a whole range.
func (b *Batch) decided() bool {
	return b.letter != nil && (b.letter.again || !b.letter.replayed || b.letter.redrives > 0)
}

// anew reports that a command is to be handled although the inbox has its reply. One
// that had no effect, because it was rejected or undone before it ran, keeps that
// end, and so does one whose reply is still to come: whoever asked counts on it.
func (b *Batch) anew(known *entry) bool {
	return b.letter != nil && b.letter.again && known.status == statusReplied
}
