package consumer

import (
	"strings"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// deadLetter is a delivery that is set aside.
type deadLetter struct {
	delivery *broker.Delivery
	attempts int
	reason   error
}

// bury sets delivery i aside, with its story, and lets its source go on. The
// row is kept in the consumer's own database, so it commits with the position.
func (w *work) bury(i, attempts int, reason error) {
	d := &w.batch.Deliveries[i]
	w.dead = append(w.dead, deadLetter{d, attempts, reason})
	w.batch.Done(i)
	w.config.Logger.Error("event became a dead letter", "consumer", w.config.Name, "topic", d.Topic,
		"partition", d.Partition, "offset", d.Offset, "event_id", d.Event.ID, "event_type", d.Event.Type,
		"saga_id", d.Event.CorrelationID, "attempts", attempts, "error", reason)
}

// QueueDeadLetter adds the statement that sets a delivery aside, for processors
// of other packages.
func QueueDeadLetter(batch *pgx.Batch, consumer string, d *broker.Delivery, attempts int, reason error) {
	queueDeadLetters(batch, consumer, []deadLetter{{d, attempts, reason}})
}

func queueDeadLetters(batch *pgx.Batch, consumer string, letters []deadLetter) {
	for _, l := range letters {
		d := l.delivery
		batch.Queue(`
			insert into dead_letter (consumer, topic, partition, position, event_id, event_type, attributes, data, attempts, error)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			on conflict do nothing`,
			consumer, string(d.Topic), d.Partition, int64(d.Offset), printable(d.Event.ID), printable(d.Event.Type),
			events.AppendAttributes(nil, &d.Event), d.Event.Data, l.attempts, printable(l.reason.Error()))
	}
}

// printable makes a text that Postgres takes out of any bytes: what is set aside
// is often set aside for its bytes, and must not fail on them again.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func rejectionAttribute(r *events.Rejection) attribute.KeyValue {
	return attribute.String("countermand.rejection", string(r.Code))
}
