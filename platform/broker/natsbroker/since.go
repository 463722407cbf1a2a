package natsbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Since implements [broker.Broker]. The server finds the place for a consumer that
// is made for the question; what lies before it is what that one would not get.
func (b *Broker) Since(ctx context.Context, topic events.Topic, at time.Time) (map[int]broker.Start, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	consumer, err := b.js.CreateConsumer(ctx, streamName(topic.Domain()), jetstream.ConsumerConfig{
		FilterSubject: string(topic) + ".*", AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &at,
		InactiveThreshold: time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", at.Format(time.RFC3339), topic, classify(err))
	}
	from := make(map[int]broker.Start, b.config.Partitions)
	for partition := range b.config.Partitions {
		from[partition] = broker.Start{After: consumer.CachedInfo().Delivered.Stream}
	}
	return from, nil
}
