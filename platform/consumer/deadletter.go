package consumer

import (
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Reasons why an event became a dead letter, as the table and the metric have them.
const (
	ReasonMalformed = "malformed"  // it is no CloudEvent
	ReasonNoHandler = "no_handler" // nobody here handles its type
	ReasonTerminal  = "terminal"   // its handler said that no retry helps: [Terminal]
	ReasonFailed    = "failed"     // its last attempt failed
	ReasonInvalid   = "invalid"    // its payload breaks its contract: [CommandsConfig.Check]
	ReasonStale     = "stale"      // it is older than the inbox remembers: [CommandsConfig.Window]
)

// errNoHandler is wrapped by the story of an event of an unknown type.
var errNoHandler = errors.New("no handler")

// errCheck marks what [CommandsConfig.Check] has found.
var errCheck = errors.New("check")

// Invalid marks what a check of an event's payload has found wrong: a [Processor] that
// buries the event for it gives it [ReasonInvalid]. A nil error stays nil.
func Invalid(err error) error {
	if err == nil {
		return nil
	}
	return checkError{err}
}

type checkError struct{ error }

func (e checkError) Is(target error) bool { return target == errCheck }
func (e checkError) Unwrap() error        { return e.error }

// reasonOf classifies why d died.
func reasonOf(d *broker.Delivery, err error) string {
	var terminal *terminalError
	switch {
	case d.Malformed != nil:
		return ReasonMalformed
	case errors.Is(err, errNoHandler):
		return ReasonNoHandler
	case errors.Is(err, errStale):
		return ReasonStale
	case errors.Is(err, errCheck):
		return ReasonInvalid
	case errors.As(err, &terminal):
		return ReasonTerminal
	}
	return ReasonFailed
}

// asideKey is what is parked: a partition key of a source.
type asideKey struct {
	Source
	key string
}

// aside is a delivery that is set aside: dead, or parked behind a dead one of its key.
type aside struct {
	i        int
	attempts int
	err      error // nil: parked
}

// Bury sets delivery i aside as a dead letter, after that many attempts, so that
// its source goes on. The row is stored by [Batch.QueuePositions]: it commits with
// the position, in the consumer's own database. It is Done thereby.
func (b *Batch) Bury(i, attempts int, err error) {
	b.aside = append(b.aside, aside{i, attempts, err})
	if b.parkKeys && b.letter == nil && b.Deliveries[i].Malformed == nil {
		b.park(i)
	}
	b.Done(i)
}

// park has later deliveries of delivery i's key wait.
func (b *Batch) park(i int) {
	if b.fresh == nil {
		b.fresh = make(map[asideKey]bool)
	}
	d := &b.Deliveries[i]
	b.fresh[asideKey{sourceOf(d), d.Event.Key()}] = true
}

// behind reports that delivery i waits behind a dead letter of its key, and sets
// it aside if so.
func (b *Batch) behind(i int) bool {
	if len(b.parked) == 0 && len(b.fresh) == 0 || b.letter != nil {
		return false
	}
	d := &b.Deliveries[i]
	key := asideKey{sourceOf(d), d.Event.Key()}
	if d.Malformed != nil || !b.parked[key] && !b.fresh[key] {
		return false
	}
	for _, a := range b.aside {
		if a.i == i {
			return true
		}
	}
	b.aside = append(b.aside, aside{i: i})
	b.Done(i)
	return true
}

// queueAside adds the statements that store what was set aside.
func (b *Batch) queueAside(batch *pgx.Batch) {
	for _, a := range b.aside {
		d := &b.Deliveries[a.i]
		l := letterOf(d, a.attempts, a.err)
		_, l.parks = b.fresh[asideKey{sourceOf(d), l.key}]
		l.parks = l.parks || l.state == stateParked
		l.queue(batch, b.consumer, d)
	}
}

// States of a row of dead_letter.
const (
	stateDead      = "dead"
	stateParked    = "parked"
	stateRedriving = "redriving"
)

// letter is what a row of dead_letter says beside the delivery.
type letter struct {
	state, reason, text, key string
	attempts                 int
	parks                    bool
}

func letterOf(d *broker.Delivery, attempts int, err error) letter {
	l := letter{state: stateParked, attempts: attempts}
	if err != nil {
		l.state, l.reason, l.text = stateDead, reasonOf(d, err), printable(err.Error())
	}
	if d.Malformed == nil {
		l.key = d.Event.Key()
	}
	return l
}

func (l letter) queue(batch *pgx.Batch, consumer string, d *broker.Delivery) {
	batch.Queue(`
		insert into dead_letter (consumer, topic, partition, position, event_id, event_type, attributes, data, attempts, error,
			state, reason, key, correlation, parks, stored_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
		on conflict do nothing`,
		consumer, string(d.Topic), d.Partition, int64(d.Offset), printable(d.Event.ID), printable(d.Event.Type),
		events.AppendAttributes(nil, &d.Event), d.Event.Data, l.attempts, l.text,
		l.state, l.reason, printable(l.key), printable(d.Event.CorrelationID), l.parks, storedAt(d))
}

// storedAt returns when the broker stored a delivery; nil when it does not say.
func storedAt(d *broker.Delivery) *time.Time {
	if d.StoredAt.IsZero() {
		return nil
	}
	return &d.StoredAt
}

// QueueDeadLetter adds the statement that sets a delivery aside, for consumers
// that are fed by something else than a [Feed]. A [Processor] calls [Batch.Bury].
func QueueDeadLetter(batch *pgx.Batch, consumer string, d *broker.Delivery, attempts int, reason error) {
	letterOf(d, attempts, reason).queue(batch, consumer, d)
}

// printable makes a text that Postgres takes out of any bytes: what is set aside
// is often set aside for its bytes, and must not fail on them again.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func rejectionAttribute(r *events.Rejection) attribute.KeyValue {
	return attribute.String("countermand.rejection", string(r.Code))
}
