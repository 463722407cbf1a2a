package consumer

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
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

// Skip reports that an earlier delivery of the same source has failed, so that
// delivery i must wait for it.
func (b *Batch) Skip(i int) bool {
	_, failed := b.failed[sourceOf(&b.Deliveries[i])]
	return failed
}

// Done says that delivery i is handled: its effects are in the transaction.
func (b *Batch) Done(i int) {
	d := &b.Deliveries[i]
	b.done[sourceOf(d)] = d.Offset
}

// Fail says that delivery i could not be handled and left no effects in the
// transaction. It will come again after a rest, before later ones of its source.
func (b *Batch) Fail(i int, err error) { b.failed[sourceOf(&b.Deliveries[i])] = err }

// Restart forgets what was Done and what has failed, for a processor that handles
// the batch anew.
func (b *Batch) Restart() { b.reset() }

func (b *Batch) reset() {
	b.done, b.failed = make(map[Source]uint64), make(map[Source]error)
}

// QueuePositions adds the statement that moves the stored positions over what is
// Done. It must run in the transaction of the effects; it fails the transaction
// when another process has moved one of them, see [IsFenced].
func (b *Batch) QueuePositions(batch *pgx.Batch) {
	n := len(b.done)
	if n == 0 {
		return
	}
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
	// A row that did not move fails the transaction: somebody else owns the
	// partition now, and this transaction's effects are not to be.
	batch.Queue(`
		with moved as (
			update consumer_position as p set handled = m.after, updated_at = clock_timestamp()
			from unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) as m (topic, partition, before, after)
			where p.consumer = $1 and p.topic = m.topic and p.partition = m.partition and p.handled = m.before
			returning 1
		)
		select consumer_expect(count(*), $6) from moved`,
		b.consumer, topics, partitions, before, after, n)
}

// queuePosition does the same for a single source, at half the price.
func (b *Batch) queuePosition(batch *pgx.Batch) {
	for source, offset := range b.done {
		batch.Queue(`
			with moved as (
				update consumer_position set handled = $5, updated_at = clock_timestamp()
				where consumer = $1 and topic = $2 and partition = $3 and handled = $4
				returning 1
			)
			select consumer_expect(count(*), 1) from moved`,
			b.consumer, string(source.Topic), int32(source.Partition), int64(b.before[source]), int64(offset))
	}
}

// IsFenced reports that a transaction failed because another process has taken
// over one of the batch's partitions.
func IsFenced(err error) bool {
	const conflict = "CM410" // of the function consumer_expect
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == conflict
}
