package outbox

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Lanes is how many lanes the outbox has. It bounds how many relays can share
// the work, and it is fixed: another number would reorder keys in flight.
const Lanes = 16

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the outbox, for the schema of the writer.
func Migrations() fs.FS { return migrations }

// Write adds messages to the outbox in tx with one statement. They are published
// in this order after tx has committed; wake the relay then, see [Relay.Wake].
// It fails, before anything is sent, on a message that no broker would take.
func Write(ctx context.Context, tx pgx.Tx, messages ...broker.Message) error {
	if len(messages) == 0 {
		return nil
	}
	var batch pgx.Batch
	if err := Queue(&batch, messages...); err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("write outbox: %w", err)
	}
	return nil
}

// Queue adds the statement of [Write] to a batch that the caller sends, for
// writers that put a whole transaction into one round trip.
func Queue(batch *pgx.Batch, messages ...broker.Message) error {
	if len(messages) == 0 {
		return nil
	}
	n := len(messages)
	lanes, publishIDs, topics := make([]int16, n), make([]string, n), make([]string, n)
	attributes, data := make([][]byte, n), make([][]byte, n)
	for i := range messages {
		m := &messages[i]
		if err := Check(m); err != nil {
			return fmt.Errorf("write outbox: event %s: %w", m.Event.ID, err)
		}
		lanes[i] = int16(broker.Partition(m.Event.Key(), Lanes))
		if topics[i] = string(m.Topic); m.PublishID != m.Event.ID { // as a rule it is the same, and is not stored twice
			publishIDs[i] = m.PublishID
		}
		attributes[i], data[i] = events.AppendAttributes(nil, &m.Event), m.Event.Data
	}
	// "order by" makes nextval follow the order of the arrays.
	batch.Queue(`
		insert into outbox (lane, publish_id, topic, attributes, data)
		select lane, publish_id, topic, attributes, data
		from unnest($1::smallint[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
			with ordinality as m (lane, publish_id, topic, attributes, data, n)
		order by n`, lanes, publishIDs, topics, attributes, data)
	return nil
}

// PublishID returns the publish id of a stored message: an empty one stands for the
// id of its event.
func PublishID(stored string, e *events.Event) string {
	if stored == "" {
		return e.ID
	}
	return stored
}

// Check reports what [Write] would refuse m for, wrapping [broker.ErrRejected].
func Check(m *broker.Message) error {
	if m.PublishID == "" {
		return fmt.Errorf("%w: no publish id", broker.ErrRejected)
	}
	if err := m.Topic.Validate(); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrRejected, err)
	}
	if err := m.Event.Validate(); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrRejected, err)
	}
	if len(m.Event.Data) > broker.MessageBytesMax {
		return fmt.Errorf("%w: %d bytes of data, at most %d are allowed", broker.ErrRejected, len(m.Event.Data), broker.MessageBytesMax)
	}
	return nil
}
