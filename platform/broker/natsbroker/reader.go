package natsbroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

const (
	// prefetch bounds what a reader holds unprocessed. Nothing is acknowledged, so
	// a large value costs memory only; a small one stalls on the round trip.
	prefetch = 512
	// sectionSpan is how far apart the positions of partitions may lie that are
	// read together. It bounds how many messages are sent only to be skipped: a
	// partition that has been idle for days must not replay the others.
	sectionSpan = 4096
	// healMin and healMax bound the rest before a consumer is made anew.
	healMin, healMax = 100 * time.Millisecond, time.Second
)

// reader reads partitions through ephemeral consumers without acknowledgements,
// one per section. A consumer that is not as it should be (the connection was
// lost, a message is missing, the server forgot it) is dropped, and another one
// goes on after the last message that was delivered.
type reader struct {
	broker  *Broker
	topic   events.Topic
	created time.Time // of the stream: another time is another stream
	queue   chan broker.Delivery
	ended   chan struct{} // closed when no section reads any more
	stop    context.CancelFunc
	ending  sync.Once
	reason  error // why it ended; set before stop
}

// section is the part of a reader that shares one consumer.
type section struct {
	from map[int]broker.Start // nil: every partition
	next uint64               // stream sequence to go on with
}

// Read implements [broker.Broker].
func (b *Broker) Read(ctx context.Context, topic events.Topic, from map[int]broker.Start) (broker.Reader, error) {
	if len(from) == 0 {
		return nil, fmt.Errorf("read %s: no partitions", topic)
	}
	info, err := b.streamInfo(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", topic, err)
	}
	return b.open(topic, info, sections(from)), nil
}

// sections groups partitions whose positions lie near each other.
func sections(from map[int]broker.Start) []*section {
	partitions := slices.SortedFunc(maps.Keys(from), func(p, q int) int {
		return cmp.Or(cmp.Compare(from[p].After, from[q].After), cmp.Compare(p, q))
	})
	var all []*section
	for _, partition := range partitions {
		start := from[partition]
		if len(all) == 0 || start.After+1-all[len(all)-1].next > sectionSpan {
			all = append(all, &section{from: make(map[int]broker.Start), next: start.After + 1})
		}
		all[len(all)-1].from[partition] = start
	}
	return all
}

// Tail implements [broker.Broker].
func (b *Broker) Tail(ctx context.Context, topic events.Topic) (broker.Reader, error) {
	info, err := b.streamInfo(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", topic, err)
	}
	// By sequence and not as "new": a consumer that is made anew before its first
	// message must not miss what came meanwhile.
	return b.open(topic, info, []*section{{next: info.State.LastSeq + 1}}), nil
}

func (b *Broker) open(topic events.Topic, info *jetstream.StreamInfo, parts []*section) *reader {
	r := &reader{
		broker: b, topic: topic, created: info.Created,
		queue: make(chan broker.Delivery, prefetch), ended: make(chan struct{}),
	}
	run, stop := context.WithCancel(context.Background())
	r.stop = stop
	var reading sync.WaitGroup
	for _, s := range parts {
		reading.Go(func() { r.read(run, s) })
	}
	go func() {
		reading.Wait()
		close(r.ended)
	}()
	return r
}

// read keeps a section supplied until the reader stops.
func (r *reader) read(ctx context.Context, s *section) {
	rest := healMin
	for {
		before := s.next
		r.consume(ctx, s)
		if s.next != before {
			rest = healMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		rest = min(2*rest, healMax)
		if err := r.check(ctx); err != nil {
			r.end(err)
			return
		}
	}
}

// check reports what no waiting can heal. A broker that is away is not among it.
func (r *reader) check(ctx context.Context) error {
	if r.broker.conn.IsClosed() {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, nats.ErrConnectionClosed)
	}
	info, err := r.broker.streamInfo(ctx, r.topic)
	switch {
	case err == nil && !info.Created.Equal(r.created):
		return fmt.Errorf("%w: the topic was made anew", broker.ErrNotFound)
	case errors.Is(err, broker.ErrNotFound):
		return err
	}
	return nil
}

// consume reads a section through one consumer, until something is wrong with it.
func (r *reader) consume(ctx context.Context, s *section) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Messages that were on their way when the connection was lost are not sent
	// again, and nothing says so until the next one: never trust a consumer beyond
	// a reconnect.
	reconnected := r.broker.conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer r.broker.conn.RemoveStatusListener(reconnected)
	go func() {
		select {
		case <-reconnected:
			cancel()
		case <-ctx.Done():
		}
	}()
	consumer, err := r.consumer(ctx, s)
	if err != nil {
		return
	}
	defer r.discard(consumer)
	iterator, err := consumer.Messages(jetstream.PullMaxMessages(prefetch), jetstream.PullHeartbeat(5*time.Second),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return
	}
	defer iterator.Stop()
	for count := uint64(1); ; count++ {
		msg, err := iterator.Next(jetstream.NextContext(ctx))
		if err != nil {
			return
		}
		meta, err := msg.Metadata()
		if err != nil || meta.Sequence.Consumer != count {
			return // a message is missing
		}
		d := delivery(r.topic, msg.Subject(), meta.Sequence.Stream, meta.Timestamp, msg.Headers(), msg.Data())
		start, ours := s.from[d.Partition]
		if s.from == nil || ours && d.Offset > start.After { // else it was handled before
			select {
			case r.queue <- d:
			case <-ctx.Done():
				return
			}
		}
		s.next = d.Offset + 1
	}
}

func (r *reader) consumer(ctx context.Context, s *section) (jetstream.Consumer, error) {
	ctx, cancel := r.broker.bound(ctx)
	defer cancel()
	config := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.next,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	}
	if s.from == nil || len(s.from) == r.broker.config.Partitions {
		config.FilterSubject = string(r.topic) + ".*" // the server matches that with no list to walk
	} else {
		for _, partition := range slices.Sorted(maps.Keys(s.from)) {
			config.FilterSubjects = append(config.FilterSubjects, subject(r.topic, partition))
		}
	}
	return r.broker.js.CreateConsumer(ctx, streamName(r.topic.Domain()), config)
}

// discard tells the server that a consumer is of no more use; it finds out by
// itself within a minute.
func (r *reader) discard(consumer jetstream.Consumer) {
	if !r.broker.conn.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.broker.js.DeleteConsumer(ctx, streamName(r.topic.Domain()), consumer.CachedInfo().Name)
}

// Next implements [broker.Reader].
func (r *reader) Next(ctx context.Context, limit int) ([]broker.Delivery, error) {
	var batch []broker.Delivery
	select {
	case d := <-r.queue:
		batch = append(make([]broker.Delivery, 0, max(1, min(limit, len(r.queue)+1))), d)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.ended:
		return nil, fmt.Errorf("read %s: %w", r.topic, r.reason)
	}
	for len(batch) < limit {
		select {
		case d := <-r.queue:
			batch = append(batch, d)
		default:
			return batch, nil
		}
	}
	return batch, nil
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
