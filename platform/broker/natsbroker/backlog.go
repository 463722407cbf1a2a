package natsbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Backlog implements [broker.Broker]. It has the server count, through consumers
// that are made for the question and go away within a second or so.
func (b *Broker) Backlog(ctx context.Context, topic events.Topic, from map[int]broker.Start) (uint64, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	var total uint64
	for partition, start := range from {
		consumer, err := b.js.CreateConsumer(ctx, streamName(topic.Domain()), jetstream.ConsumerConfig{
			FilterSubject: subject(topic, partition), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start.After + 1,
			InactiveThreshold: time.Second,
		})
		if err != nil {
			return 0, fmt.Errorf("backlog of %s: %w", topic, classify(err))
		}
		total += consumer.CachedInfo().NumPending
	}
	return total, nil
}
