package saga

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
)

// attemptsMax bounds how often one batch is decided anew because another engine
// was faster, which happens only while partitions change hands, and how often an
// event is tried before it becomes a dead letter.
const attemptsMax = 10

// Memory implements [consumer.Rememberer]: a saga begins once, and a reply counts only
// while its command is awaited.
func (e *Engine) Memory() consumer.Memory { return consumer.MemoryOwn }

// Process implements [consumer.Processor].
func (e *Engine) Process(ctx context.Context, batch *consumer.Batch) error {
	var err error
	for attempt := range attemptsMax {
		batch.Restart()
		// A start command almost always begins a new saga, so it is not looked up
		// at first: the primary key tells when there is one.
		switch err = e.process(ctx, batch, attempt == 0); {
		case errors.Is(err, errDoubt): // the cache is right about them the next time
		case isConflict(err):
			e.metrics.conflicts.Inc()
		default:
			return err
		}
	}
	return err
}

// errDoubt means that the cache alone said that a reply is not awaited.
var errDoubt = errors.New("a reply was ignored on the word of the cache")

func (e *Engine) process(ctx context.Context, batch *consumer.Batch, trustStarts bool) error {
	t := e.newTransition()
	ids := make([][]uuid.UUID, len(batch.Deliveries))
	read := make([]uuid.UUID, 0, len(batch.Deliveries))
	for i := range batch.Deliveries {
		event := &batch.Deliveries[i].Event
		_, starts := e.starts[event.Type]
		ids[i] = e.sagasOf(&batch.Deliveries[i], starts)
		if !starts || !trustStarts {
			read = append(read, ids[i]...)
		}
	}
	var err error
	if t.found, t.now, err = e.load(ctx, read); err != nil {
		return err
	}
	ignored := make(map[uuid.UUID]bool)
	var out pgx.Batch
	for i := range batch.Deliveries {
		if batch.Skip(i) {
			continue
		}
		d := &batch.Deliveries[i]
		number, reason := batch.Attempt(i)
		if number <= attemptsMax {
			if reason = e.check(d); reason != nil { // no retry helps
				ids[i] = nil
			}
			for _, id := range ids[i] {
				verdict, err := t.deliver(ctx, id, d)
				if verdict == Ignored && t.found[id].cached {
					ignored[id] = true
				}
				reason = cmp.Or(reason, err)
			}
		}
		if (errors.Is(reason, errForeign) || errors.Is(reason, errNotFound)) && number < attemptsMax {
			// While a new version is rolled out, another engine will have it soon; and
			// what begins a saga may be on its way still, in another partition.
			batch.Fail(i, reason)
			continue
		}
		if reason != nil {
			if number < attemptsMax { // the same answer for ever
				reason = consumer.Terminal(reason)
			}
			batch.Bury(i, min(number, attemptsMax), reason)
			t.verdicts["dead"]++
			e.config.Logger.ErrorContext(ctx, "event became a dead letter", "consumer", ConsumerName, "topic", d.Topic,
				"offset", d.Offset, "event_id", d.Event.ID, "event_type", d.Event.Type, "saga_id", d.Event.CorrelationID, "error", reason)
		}
		batch.Done(i)
	}
	if e.cache.doubt(ignored, t.changed) {
		return errDoubt
	}
	batch.QueuePositions(&out)
	return t.commit(ctx, &out)
}

// check returns what is wrong with a payload, by the engine's own standards.
func (e *Engine) check(d *broker.Delivery) error {
	if e.config.Check != nil && d.Malformed == nil { // which says more
		return consumer.Invalid(e.config.Check(&d.Event))
	}
	return nil
}

// sagasOf returns the sagas that an event belongs to: the one that it begins,
// whatever else it correlates with; the one that it has undone; those that await
// it; or the one it correlates with.
func (e *Engine) sagasOf(d *broker.Delivery, starts bool) []uuid.UUID {
	event := &d.Event
	// A fact that others publish correlates with what made them publish it, which is
	// not the saga that awaits it. A signal is addressed by its correlation.
	if correlations := e.correlate[event.Type]; len(correlations) > 0 && d.Topic != events.Signals {
		return correlated(correlations, event)
	}
	id := event.CorrelationID
	if starts {
		id = event.ID
	} else if started, ok := events.CompensatedType(event.Type); ok && e.starts[started] != nil {
		id = event.Undoes
	}
	if parsed, err := uuid.Parse(id); err == nil {
		return []uuid.UUID{parsed}
	}
	return []uuid.UUID{events.DeriveUUID(event.Source, event.ID)}
}

// correlated returns the sagas of a fact, each once.
func correlated(correlations []correlation, event *events.Event) (ids []uuid.UUID) {
	for _, c := range correlations {
		var id string
		err := protect(func() (err error) {
			id, err = c.saga(event.Data)
			return err
		})
		if err != nil {
			continue // a fact of another shape is none of ours
		}
		if parsed, err := uuid.Parse(id); err == nil && !slices.Contains(ids, parsed) {
			ids = append(ids, parsed)
		}
	}
	return ids
}
