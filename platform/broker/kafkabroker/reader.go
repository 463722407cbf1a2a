package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// prefetch bounds how many messages a reader holds unprocessed, beside those of
// the last fetch.
const prefetch = 512

// reader reads partitions by their leaders, with one fetch in flight per leader.
// It commits nothing: where it begins is its owner's business.
type reader struct {
	broker *Broker
	topic  events.Topic
	id     string // of the topic: another id is another topic
	queue  chan fetched
	ended  chan struct{} // closed when nothing is read any more
	stop   context.CancelFunc
	ending sync.Once
	reason error // why it ended; set before stop

	mu   sync.Mutex
	next map[int]int64 // Kafka's offset to go on with, by partition
}

// Read implements [broker.Broker].
func (b *Broker) Read(ctx context.Context, topic events.Topic, from map[int]broker.Start) (broker.Reader, error) {
	if len(from) == 0 {
		return nil, fmt.Errorf("read %s: no partitions", topic)
	}
	ctx, cancel := b.bound(ctx)
	defer cancel()
	info, err := b.topic(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", topic, err)
	}
	for partition := range from {
		if partition < 0 || partition >= len(info.partitions) {
			return nil, fmt.Errorf("read %s: %w: it has no partition %d", topic, broker.ErrNotFound, partition)
		}
	}
	return b.open(topic, info.id.String(), from, prefetch), nil
}

// Tail implements [broker.Broker].
func (b *Broker) Tail(ctx context.Context, topic events.Topic) (broker.Reader, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	info, err := b.topic(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", topic, err)
	}
	last, err := b.offsetsAt(ctx, topic, b.all(), kafka.LastOffset)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", topic, err)
	}
	from := make(map[int]broker.Start, len(last))
	for partition, end := range last {
		from[partition] = broker.Start{After: uint64(end)}
	}
	return b.open(topic, info.id.String(), from, prefetch), nil
}

// open starts a reader. After, the offset of the last message that was handled, is
// Kafka's offset of the next one.
func (b *Broker) open(topic events.Topic, id string, from map[int]broker.Start, ahead int) *reader {
	r := &reader{
		broker: b, topic: topic, id: id, queue: make(chan fetched, ahead), ended: make(chan struct{}), next: make(map[int]int64, len(from)),
	}
	for partition, start := range from {
		r.next[partition] = int64(start.After)
	}
	run, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.ended)
		r.run(run)
	}()
	return r
}

// run reads until the reader ends, and begins anew with whatever went wrong.
func (r *reader) run(ctx context.Context) {
	rest := healMin
	for ctx.Err() == nil {
		before := r.positions()
		err := r.verify(ctx)
		if err == nil {
			err = r.reenter(ctx, r.readAll(ctx))
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, broker.ErrNotFound) { // no waiting heals that
			r.end(err)
			return
		}
		r.broker.config.Logger.DebugContext(ctx, "reading is begun anew", "topic", r.topic, "error", err)
		if !maps.Equal(before, r.positions()) {
			rest = healMin
		}
		select {
		case <-time.After(rest):
			rest = min(2*rest, healMax)
		case <-ctx.Done():
		}
	}
}

// verify reports whether the topic is the one that the positions are of. It is
// asked before every beginning: the topic may have been removed and made anew
// while nobody was looking, and offsets begin at zero again then.
func (r *reader) verify(ctx context.Context) error {
	ctx, cancel := r.broker.bound(ctx)
	defer cancel()
	info, err := r.broker.topic(ctx, r.topic)
	if err == nil && info.id.String() != r.id {
		return fmt.Errorf("%w: the topic was made anew", broker.ErrNotFound)
	}
	return err
}

func (r *reader) positions() map[int]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.next)
}

// readAll reads from all leaders at once until something is wrong with one.
func (r *reader) readAll(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	leaders := r.broker.leaders(ctx, r.broker.name(r.topic))
	byLeader := make(map[int32][]int)
	for partition := range r.positions() {
		leader, ok := leaders[partitionID{r.broker.name(r.topic), partition}]
		if !ok || leader < 0 {
			return &partitionError{partition, kafka.LeaderNotAvailable}
		}
		byLeader[leader] = append(byLeader[leader], partition)
	}
	var reading sync.WaitGroup
	for _, partitions := range byLeader {
		reading.Go(func() { cancel(r.readFrom(ctx, partitions)) })
	}
	reading.Wait()
	return context.Cause(ctx)
}

// partitionError is what a server says of one partition.
type partitionError struct {
	partition int
	err       error
}

func (e *partitionError) Error() string { return fmt.Sprintf("partition %d: %v", e.partition, e.err) }
func (e *partitionError) Unwrap() error { return e.err }

// readFrom reads the partitions of one leader.
func (r *reader) readFrom(ctx context.Context, partitions []int) error {
	for turn := 0; ; turn++ {
		at := make(map[int]int64, len(partitions))
		r.mu.Lock()
		for _, partition := range partitions {
			at[partition] = r.next[partition]
		}
		r.mu.Unlock()
		hauls, err := r.broker.fetch(ctx, r.topic, at, fetchWait)
		if err != nil {
			return err
		}
		var wrong error
		for i := range hauls { // begin with another partition each time: the queue is bounded
			h := &hauls[(i+turn)%len(hauls)]
			if h.err != nil {
				wrong = &partitionError{h.partition, h.err}
				continue
			}
			if err := r.hand(ctx, h); err != nil {
				return err
			}
		}
		if wrong != nil {
			return wrong
		}
	}
}

// hand queues what a fetch brought.
func (r *reader) hand(ctx context.Context, h *haul) error {
	for _, f := range h.messages {
		select {
		case r.queue <- f:
			r.move(h.partition, int64(f.Offset)) // one more than Kafka's offset of it
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.move(h.partition, h.next)
	return nil
}

func (r *reader) move(partition int, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next[partition] = next
}

// reenter deals with a position that the server does not have, if that is why
// reading has ended. What was deleted for its age cannot be read; a position behind
// the end means that the server has lost messages it had, and that nobody knows what
// the position stands for.
func (r *reader) reenter(ctx context.Context, why error) error {
	var of *partitionError
	if !errors.Is(why, kafka.OffsetOutOfRange) || !errors.As(why, &of) {
		return why
	}
	ctx, cancel := r.broker.bound(ctx)
	defer cancel()
	partition := of.partition
	first, last, err := r.broker.ends(ctx, r.topic, []int{partition})
	if err != nil {
		return err
	}
	at := r.positions()[partition]
	switch {
	case at < first[partition]:
		if at > 0 {
			r.broker.config.Logger.ErrorContext(ctx, "messages were deleted before they were read; keep them longer",
				"topic", r.topic, "partition", partition, "position", at, "oldest", first[partition]+1)
		}
		r.move(partition, first[partition])
	case at > last[partition]:
		return fmt.Errorf("%w: position %d of partition %d is behind its end, %d: the server has lost messages",
			broker.ErrNotFound, at, partition, last[partition])
	}
	return why
}

// Next implements [broker.Reader].
func (r *reader) Next(ctx context.Context, limit int) ([]broker.Delivery, error) {
	first, err := r.one(ctx)
	if err != nil {
		return nil, err
	}
	batch := append(make([]broker.Delivery, 0, max(1, min(limit, len(r.queue)+1))), first.Delivery)
	for len(batch) < limit {
		select {
		case f := <-r.queue:
			batch = append(batch, f.Delivery)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// one returns the next message.
func (r *reader) one(ctx context.Context) (fetched, error) {
	select {
	case f := <-r.queue:
		return f, nil
	case <-ctx.Done():
		return fetched{}, ctx.Err()
	case <-r.ended:
		return fetched{}, fmt.Errorf("read %s: %w", r.topic, r.reason)
	}
}

// errClosed is how a reader ends that its owner has closed.
var errClosed = fmt.Errorf("%w: the reader is closed", broker.ErrUnavailable)

// Close implements [broker.Reader].
func (r *reader) Close() {
	r.end(errClosed)
	<-r.ended
}

func (r *reader) end(reason error) {
	r.ending.Do(func() {
		r.reason = reason
		r.stop()
	})
}

// Lookup implements [broker.Broker].
func (b *Broker) Lookup(ctx context.Context, topic events.Topic, partition int, offset uint64) (broker.Delivery, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	d, err := b.lookup(ctx, topic, partition, offset)
	if err != nil {
		return broker.Delivery{}, fmt.Errorf("look up %s, partition %d at %d: %w", topic, partition, offset, classify(err))
	}
	return d, nil
}

func (b *Broker) lookup(ctx context.Context, topic events.Topic, partition int, offset uint64) (broker.Delivery, error) {
	if offset == 0 {
		return broker.Delivery{}, broker.ErrNotFound
	}
	for rest := healMin; ; rest = min(2*rest, healMax) {
		at := int64(offset) - 1
		hauls, err := b.fetch(ctx, topic, map[int]int64{partition: at}, 0)
		if err == nil && len(hauls) == 1 {
			err = hauls[0].err
			if err == nil && len(hauls[0].messages) > 0 && hauls[0].messages[0].Offset == offset {
				return hauls[0].messages[0].Delivery, nil
			}
			if err == nil || errors.Is(err, kafka.OffsetOutOfRange) {
				return broker.Delivery{}, broker.ErrNotFound
			}
		}
		info, lookErr := b.topic(ctx, topic)
		if errors.Is(lookErr, broker.ErrNotFound) {
			return broker.Delivery{}, lookErr
		}
		if lookErr == nil && (partition < 0 || partition >= len(info.partitions)) {
			return broker.Delivery{}, broker.ErrNotFound
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return broker.Delivery{}, errors.Join(err, lookErr, ctx.Err())
		}
	}
}
