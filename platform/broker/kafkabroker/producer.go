package kafkabroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// identity is what makes a batch recognisable to the server that stores it.
type identity struct {
	producer int64
	epoch    int16
	sequence int32 // of the first message
}

// after returns the identity of what follows count messages.
func (id identity) after(count int) identity {
	id.sequence = int32((int64(id.sequence) + int64(count)) % (math.MaxInt32 + 1))
	return id
}

// producer keeps the identity of this process's writing to each partition.
type producer struct {
	mu    sync.Mutex
	lines map[partitionID]*line
}

func newProducer() *producer { return &producer{lines: make(map[partitionID]*line)} }

// line is this process's writing to one partition. Whoever has its turn may use
// the other fields.
type line struct {
	turn  chan struct{} // capacity 1: one batch in flight
	known bool          // whether next is valid
	next  identity
	// unresolved is a batch that may be stored or not, and may yet be, if its
	// request is still on its way.
	unresolved *flight
}

func (p *producer) line(id partitionID) *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[id]
	if l == nil {
		l = &line{turn: make(chan struct{}, 1)}
		p.lines[id] = l
	}
	return l
}

// flight is a batch under one identity.
type flight struct {
	batch   batch
	id      identity
	at      time.Time
	ids     []string // the publish ids of its messages
	indexes []int    // where their receipts go; nil for one of an earlier call
	sent    bool     // whether a server may have it
}

// resolveWithin is for how long a batch of unknown fate is asked for again: the
// time that a publish id counts for on any broker.
const resolveWithin = 2 * time.Minute

// consignment is what one call publishes to one partition.
type consignment struct {
	id       partitionID
	topic    events.Topic
	line     *line
	messages []broker.Message
	receipts []broker.Receipt
	indexes  []int // of the messages that are neither stored nor in flight
	rejected error // why the message after the last of indexes cannot go; nil: there is none
	culprit  int   // that message, when there is one
	behind   []int // the messages after it
	singly   bool  // a batch was refused: find out which message it was
	flight   *flight
	failed   error // of the last attempt
}

// PublishBatch implements [broker.Publisher]. Partitions are independent of each
// other: what is stored is a prefix within each of them.
func (b *Broker) PublishBatch(ctx context.Context, messages []broker.Message) []broker.Receipt {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	receipts := make([]broker.Receipt, len(messages))
	if b.duplicates != nil {
		b.duplicates.before(messages, receipts)
	}
	all := b.consign(messages, receipts)
	ready := b.takeTurns(ctx, all)
	defer func() {
		for _, c := range ready {
			<-c.line.turn
		}
	}()
	for rest := healMin; ; {
		open := slices.DeleteFunc(slices.Clone(ready), func(c *consignment) bool { return !b.load(ctx, c) })
		if len(open) == 0 {
			break
		}
		if progress := b.ship(ctx, open); progress {
			rest = healMin
			continue
		}
		select {
		case <-time.After(rest):
			rest = min(2*rest, healMax)
		case <-ctx.Done():
		}
	}
	if b.duplicates != nil {
		b.duplicates.after(ctx, messages, receipts)
	}
	return receipts
}

// consign sorts messages by partition, without those that are known to be stored,
// and sets apart those that cannot go out.
func (b *Broker) consign(messages []broker.Message, receipts []broker.Receipt) []*consignment {
	byPartition := make(map[partitionID]*consignment)
	var all []*consignment
	for i := range messages {
		m := &messages[i]
		if receipts[i].Duplicate {
			continue
		}
		id := partitionID{b.name(m.Topic), broker.Partition(m.Event.Key(), b.config.Partitions)}
		receipts[i].Partition = id.partition
		c := byPartition[id]
		if c == nil {
			c = &consignment{id: id, topic: m.Topic, messages: messages, receipts: receipts}
			byPartition[id] = c
			all = append(all, c)
		}
		if c.rejected != nil {
			c.behind = append(c.behind, i)
			continue
		}
		if err := sendable(m); err != nil {
			c.rejected, c.culprit = err, i
			continue
		}
		c.indexes = append(c.indexes, i)
	}
	// The same order for everybody, or two calls could wait for each other's turns.
	slices.SortFunc(all, func(x, y *consignment) int {
		return cmp.Or(cmp.Compare(x.id.topic, y.id.topic), cmp.Compare(x.id.partition, y.id.partition))
	})
	return all
}

// sendable reports why a message cannot go out.
func sendable(m *broker.Message) error {
	if err := errors.Join(m.Topic.Validate(), m.Event.Validate()); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrRejected, err)
	}
	// Attributes have a limit of their own, so this bounds the batch.
	if n := len(m.Event.Data); n > broker.MessageBytesMax {
		return fmt.Errorf("%w: %d bytes of data, at most %d are taken", broker.ErrRejected, n, broker.MessageBytesMax)
	}
	return nil
}

// takeTurns waits for the partitions' turns and returns the consignments that have
// theirs.
func (b *Broker) takeTurns(ctx context.Context, all []*consignment) []*consignment {
	for i, c := range all {
		l := b.producer.line(c.id)
		select {
		case l.turn <- struct{}{}:
			c.line = l
		case <-ctx.Done():
			for _, late := range all[i:] {
				late.fail(fmt.Errorf("%w: earlier messages of the partition are still on their way: %w", broker.ErrUnavailable, ctx.Err()))
			}
			return all[:i]
		}
	}
	return all
}

// load puts the next batch of a consignment into flight. It reports false when
// everything has its receipt.
func (b *Broker) load(ctx context.Context, c *consignment) bool {
	if ctx.Err() != nil {
		err := c.failed
		if err == nil {
			err = ctx.Err()
		}
		c.fail(fmt.Errorf("%w: not stored, or not known to be: %w", broker.ErrUnavailable, err))
		return false
	}
	if c.flight != nil {
		return true
	}
	if u := c.line.unresolved; u != nil {
		c.line.unresolved = nil
		if c.repeats(u) {
			c.flight = u
			return true
		}
		// Nobody asks for it any more. In an epoch of its own what follows does not pass
		// for a copy of it, and the server refuses it from now on.
		if c.line.next.epoch == math.MaxInt16 {
			c.line.known = false
		}
		c.line.next.epoch++
		c.line.next.sequence = 0
	}
	if len(c.indexes) == 0 {
		c.finish()
		return false
	}
	if !c.line.known {
		answer, err := b.client.InitProducerID(ctx, &kafka.InitProducerIDRequest{ProducerID: -1, ProducerEpoch: -1})
		if err == nil {
			err = answer.Error
		}
		if err != nil {
			c.failed = fmt.Errorf("get a producer id: %w", err)
			return true // and try again
		}
		c.line.known = true
		c.line.next = identity{producer: int64(answer.Producer.ProducerID), epoch: int16(answer.Producer.ProducerEpoch)}
	}
	f := &flight{id: c.line.next, at: time.Now()}
	for _, i := range c.indexes {
		m := &c.messages[i]
		if c.singly && f.batch.count == 1 || !f.batch.add(m, b.duplicates != nil) {
			break
		}
		f.ids = append(f.ids, m.PublishID)
		f.indexes = append(f.indexes, i)
	}
	c.indexes = c.indexes[len(f.indexes):]
	f.batch.seal(f.at, f.id)
	c.flight = f
	return true
}

// repeats reports whether a message of the flight is among what is published now.
func (c *consignment) repeats(f *flight) bool {
	if time.Since(f.at) > resolveWithin {
		return false
	}
	return slices.ContainsFunc(c.indexes, func(i int) bool {
		id := c.messages[i].PublishID
		return id != "" && slices.Contains(f.ids, id)
	})
}

// stored notes that the flight is stored from that offset of Kafka's on.
func (c *consignment) stored(base int64) {
	f := c.flight
	c.flight, c.failed = nil, nil
	c.line.next = f.id.after(f.batch.count)
	offset := func(n int) uint64 {
		if base < 0 { // stored so long ago that the server has forgotten where
			return 0
		}
		return uint64(base+int64(n)) + 1
	}
	if f.indexes != nil {
		for n, i := range f.indexes {
			c.receipts[i].Offset = offset(n)
		}
		return
	}
	// Of an earlier call: its messages that are asked for again are done with.
	at := make(map[string]uint64, len(f.ids))
	for n, id := range f.ids {
		if id != "" {
			at[id] = offset(n)
		}
	}
	c.indexes = slices.DeleteFunc(c.indexes, func(i int) bool {
		where, ok := at[c.messages[i].PublishID]
		if ok {
			c.receipts[i].Duplicate, c.receipts[i].Offset = true, where
		}
		return ok
	})
}

// refuse notes that the server does not take the flight, and has not stored it.
func (c *consignment) refuse(err error) {
	f := c.flight
	c.flight = nil
	switch {
	case f.indexes == nil: // of an earlier call, which has its receipts
	case f.batch.count > 1:
		c.singly = true
		c.indexes = append(slices.Clone(f.indexes), c.indexes...)
	default:
		c.behind = append(slices.Clone(c.indexes), c.tail()...)
		c.indexes = nil
		c.rejected, c.culprit = fmt.Errorf("%w: %w", broker.ErrRejected, err), f.indexes[0]
	}
}

// tail lists what comes after the messages that can go out.
func (c *consignment) tail() []int {
	if c.rejected == nil {
		return nil
	}
	return append([]int{c.culprit}, c.behind...)
}

// finish gives the messages that cannot go out their receipts.
func (c *consignment) finish() {
	if c.rejected == nil {
		return
	}
	c.receipts[c.culprit].Err = c.name(c.rejected)
	for _, i := range c.behind {
		c.receipts[i].Err = c.name(fmt.Errorf("%w: an earlier message of the partition is not stored", broker.ErrUnavailable))
	}
	c.rejected = nil
}

// fail gives everything that has none an error as its receipt, and keeps a batch
// of unknown fate.
func (c *consignment) fail(err error) {
	err = c.name(err)
	if f := c.flight; f != nil {
		for _, i := range f.indexes {
			c.receipts[i].Err = err
		}
		if f.sent {
			f.indexes = nil
			c.line.unresolved = f
		}
		c.flight = nil
	}
	for _, i := range slices.Concat(c.indexes, c.tail()) {
		c.receipts[i].Err = err
	}
	c.indexes, c.rejected, c.behind = nil, nil, nil
}

func (c *consignment) name(err error) error {
	return fmt.Errorf("publish to %s, partition %d: %w", c.id.topic, c.id.partition, err)
}
