package consumer

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
)

// Source is one partition of one topic.
type Source struct {
	Topic     events.Topic
	Partition int
}

func sourceOf(d *broker.Delivery) Source { return Source{d.Topic, d.Partition} }

// Batch is what has arrived, in order within each source. The processor calls
// Done or Fail for every delivery that it does not Skip.
type Batch struct {
	Deliveries []broker.Delivery

	consumer string
	before   map[Source]uint64 // stored positions
	done     map[Source]uint64
	failed   map[Source]error
	attempts map[Source]attempt // of the first delivery of a source

	blameless bool // what failed is not to blame for it

	parkKeys bool              // a dead letter holds its key
	parked   map[asideKey]bool // keys that were held before
	fresh    map[asideKey]bool // and those that are held since
	aside    []aside
	letter   *letterRef // set for a dead letter that is handled again
}

// NewBatch returns a batch of deliveries for the consumer of that name, whose
// stored positions are those, for whoever drives a [Processor] without a [Feed],
// such as a test or a benchmark.
func NewBatch(consumer string, positions map[Source]uint64, deliveries ...broker.Delivery) *Batch {
	b := &Batch{Deliveries: deliveries, consumer: consumer, before: positions, attempts: make(map[Source]attempt)}
	b.reset()
	return b
}

// attempt is the story of a delivery that failed before.
type attempt struct {
	count int // failures so far
	last  error
}

// Attempt tells which attempt at delivery i this is, from 1, and how the last
// one failed.
func (b *Batch) Attempt(i int) (number int, last error) {
	d := &b.Deliveries[i]
	source := sourceOf(d)
	if _, moved := b.done[source]; moved {
		return 1, nil
	}
	a := b.attempts[source]
	return a.count + 1, a.last
}

// Skip reports that delivery i is not to be handled: an earlier delivery of the
// same source has failed, so that it must wait, or its key is parked, so that it
// is set aside. Ask right before handling it.
func (b *Batch) Skip(i int) bool { return b.waits(i) || b.behind(i) }

// waits reports that an earlier delivery of the same source has failed.
func (b *Batch) waits(i int) bool {
	_, failed := b.failed[sourceOf(&b.Deliveries[i])]
	return failed
}

// Done says that delivery i is handled: its effects are in the transaction.
func (b *Batch) Done(i int) {
	d := &b.Deliveries[i]
	source := sourceOf(d)
	b.done[source] = max(b.done[source], d.Offset) // a processor may take them in another order
}

// Fail says that delivery i could not be handled and left no effects in the
// transaction. It will come again after a rest, before later ones of its source.
func (b *Batch) Fail(i int, err error) { b.failed[sourceOf(&b.Deliveries[i])] = err }

// Restart forgets what was Done and what has failed, for a processor that handles
// the batch anew.
func (b *Batch) Restart() { b.reset() }

func (b *Batch) reset() {
	b.done, b.failed = make(map[Source]uint64), make(map[Source]error)
	b.aside, b.fresh = b.aside[:0], nil
}

// QueuePositions adds the statements that move the stored positions over what is
// Done and store what was set aside. They must run in the transaction of the effects; they fail the transaction
// when another process has moved one of them, see [IsFenced].
func (b *Batch) QueuePositions(batch *pgx.Batch) {
	if b.letter != nil {
		b.queueLetter(batch)
		return
	}
	n := len(b.done)
	if n == 0 {
		return
	}
	b.queueAside(batch)
	if n == 1 {
		b.queuePosition(batch)
		return
	}
	topics, partitions := make([]string, 0, n), make([]int32, 0, n)
	before, after := make([]int64, 0, n), make([]int64, 0, n)
	for source, offset := range b.done {
		topics, partitions = append(topics, string(source.Topic)), append(partitions, int32(source.Partition))
		before, after = append(before, int64(b.before[source])), append(after, int64(offset))
	}
	// A position that is not what it was fails the transaction: somebody else owns
	// the partition now, and this transaction's effects are not to be.
	batch.Queue(`
		update consumer_position as p set updated_at = clock_timestamp(),
			handled = case when p.handled = m.before then m.after else consumer_conflict() end
		from unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) as m (topic, partition, before, after)
		where p.consumer = $1 and p.topic = m.topic and p.partition = m.partition`,
		b.consumer, topics, partitions, before, after).Exec(b.moved(n))
}

// queuePosition does the same for a single source, at half the price.
func (b *Batch) queuePosition(batch *pgx.Batch) {
	for source, offset := range b.done {
		batch.Queue(`
			update consumer_position set updated_at = clock_timestamp(),
				handled = case when handled = $4 then $5 else consumer_conflict() end
			where consumer = $1 and topic = $2 and partition = $3`,
			b.consumer, string(source.Topic), int32(source.Partition), int64(b.before[source]), int64(offset)).Exec(b.moved(1))
	}
}

// moved reports positions that are gone, which nothing of the platform does. The
// transaction may have committed by then, so its outcome counts as unknown, and
// reading begins from what is stored.
func (b *Batch) moved(n int) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() != int64(n) {
			return fmt.Errorf("%w: %d of %d positions of consumer %s are gone", postgres.ErrCommitUnknown, n-int(tag.RowsAffected()), n, b.consumer)
		}
		return nil
	}
}

// IsFenced reports that a transaction failed because another process has taken
// over one of the batch's partitions.
func IsFenced(err error) bool {
	const conflict = "CM410" // of the function consumer_conflict
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == conflict
}
