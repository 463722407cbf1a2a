package consumer

import "github.com/countermand/countermand/platform/broker"

// NewBatch returns a batch as a worker at those positions makes it, so that a
// test decides what shares a transaction.
func NewBatch(consumer string, positions map[Source]uint64, deliveries ...broker.Delivery) *Batch {
	b := &Batch{Deliveries: deliveries, consumer: consumer, before: positions, attempts: make(map[Source]attempt)}
	b.reset()
	return b
}

// Outcome returns what a processor said of the sources of a batch.
func (b *Batch) Outcome() (done map[Source]uint64, failed map[Source]error) { return b.done, b.failed }
