package kafkabroker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// duplicates finds copies of messages by reading back what is published. Kafka
// itself recognises only what one producer repeats. Two processes that publish
// one id at the same time may both store it; then both learn which copy is the
// first, since all read the same log.
type duplicates struct {
	broker *Broker
	window time.Duration
	ctx    context.Context
	stop   context.CancelFunc
	follow sync.WaitGroup

	mu     sync.Mutex
	topics map[events.Topic]*firsts
}

// firsts are the first copies of one topic's messages within the window.
type firsts struct {
	mu      sync.Mutex
	at      map[idHash]place
	order   []dated        // by time, for forgetting
	read    map[int]uint64 // offset of the last message read, by partition
	changed chan struct{}  // closed and replaced when read moves
}

// idHash stands for a publish id, at less memory.
type idHash [16]byte

type place struct {
	partition int
	offset    uint64
}

type dated struct {
	id idHash
	at time.Time
}

func newDuplicates(b *Broker, window time.Duration) *duplicates {
	d := &duplicates{broker: b, window: window, topics: make(map[events.Topic]*firsts)}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d
}

func (d *duplicates) close() {
	d.stop()
	d.follow.Wait()
}

func hashOf(publishID string) (h idHash) {
	sum := sha256.Sum256([]byte(publishID))
	copy(h[:], sum[:])
	return h
}

// of returns the first copies of a topic. The topic is followed from then on.
func (d *duplicates) of(topic events.Topic) *firsts {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.topics[topic]
	if f == nil {
		f = &firsts{}
		f.reset()
		d.topics[topic] = f
		d.follow.Go(func() { d.run(topic, f) })
	}
	return f
}

// before gives the messages that are stored already their receipts.
func (d *duplicates) before(messages []broker.Message, receipts []broker.Receipt) {
	for i := range messages {
		if messages[i].PublishID == "" {
			continue
		}
		if first, ok := d.of(messages[i].Topic).find(messages[i].PublishID); ok {
			receipts[i] = broker.Receipt{Duplicate: true, Partition: first.partition, Offset: first.offset}
		}
	}
}

// after finds copies that were stored before the ones that have just been.
func (d *duplicates) after(ctx context.Context, messages []broker.Message, receipts []broker.Receipt) {
	for i := range messages {
		r := &receipts[i]
		if messages[i].PublishID == "" || r.Err != nil || r.Duplicate || r.Offset == 0 {
			continue
		}
		f := d.of(messages[i].Topic)
		if err := f.wait(ctx, place{r.Partition, r.Offset}); err != nil {
			*r = broker.Receipt{Partition: r.Partition, Err: fmt.Errorf("%w: stored, but not known whether as a copy: %w", broker.ErrUnavailable, err)}
			continue
		}
		if first, ok := f.find(messages[i].PublishID); ok && first != (place{r.Partition, r.Offset}) {
			*r = broker.Receipt{Duplicate: true, Partition: first.partition, Offset: first.offset}
		}
	}
}

// run follows a topic until the broker is closed.
func (d *duplicates) run(topic events.Topic, f *firsts) {
	for d.ctx.Err() == nil {
		err := d.read(topic, f)
		if d.ctx.Err() != nil {
			return
		}
		d.broker.config.Logger.WarnContext(d.ctx, "copies of messages are looked for anew", "topic", topic, "error", err)
		select {
		case <-time.After(healMax):
		case <-d.ctx.Done():
		}
	}
}

func (d *duplicates) read(topic events.Topic, f *firsts) error {
	ctx, cancel := d.broker.bound(d.ctx)
	info, err := d.broker.topic(ctx, topic)
	var from map[int]broker.Start
	if err == nil {
		from, err = d.broker.since(ctx, topic, time.Now().Add(-d.window))
	}
	cancel()
	if err != nil {
		return err
	}
	f.reset()
	r := d.broker.open(topic, info.id.String(), from, prefetch)
	defer r.Close()
	for {
		message, err := r.one(d.ctx)
		if err != nil {
			return err
		}
		f.note(message, time.Now().Add(-d.window))
	}
}

func (f *firsts) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.order, f.read = make(map[idHash]place), nil, make(map[int]uint64)
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
}

// note takes a message in and forgets those from before the window.
func (f *firsts) note(message fetched, before time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if message.publishID != "" {
		id := hashOf(message.publishID)
		if _, known := f.at[id]; !known {
			f.at[id] = place{message.Partition, message.Offset}
			f.order = append(f.order, dated{id, message.StoredAt})
		}
	}
	for len(f.order) > 0 && f.order[0].at.Before(before) {
		delete(f.at, f.order[0].id)
		f.order = f.order[1:]
	}
	f.read[message.Partition] = message.Offset
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *firsts) find(publishID string) (place, bool) {
	id := hashOf(publishID)
	f.mu.Lock()
	defer f.mu.Unlock()
	first, ok := f.at[id]
	return first, ok
}

// errReset ends a wait for a topic that is read anew.
var errReset = errors.New("the topic is not being read")

// wait returns when the message at that place has been read.
func (f *firsts) wait(ctx context.Context, at place) error {
	for {
		f.mu.Lock()
		read, changed := f.read[at.partition], f.changed
		f.mu.Unlock()
		if read >= at.offset {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errReset, ctx.Err())
		}
	}
}
