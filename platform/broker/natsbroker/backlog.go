package natsbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Backlog implements [broker.Broker]. It has the server count, through a consumer that
// is made for the question for all partitions with the same position.
func (b *Broker) Backlog(ctx context.Context, topic events.Topic, from map[int]broker.Start) (uint64, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	together := make(map[uint64][]string) // subjects by position
	for partition, start := range from {
		together[start.After] = append(together[start.After], subject(topic, partition))
	}
	var total uint64
	for after, subjects := range together {
		if len(subjects) == b.config.Partitions {
			subjects = []string{string(topic) + ".*"} // the server matches that with no list to walk
		}
		pending, err := b.pending(ctx, topic, after, subjects)
		if err != nil {
			return 0, fmt.Errorf("backlog of %s: %w", topic, err)
		}
		total += pending
	}
	return total, nil
}

func (b *Broker) pending(ctx context.Context, topic events.Topic, after uint64, subjects []string) (uint64, error) {
	stream := streamName(topic.Domain())
	consumer, err := b.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		FilterSubjects: subjects, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
		InactiveThreshold: time.Second,
	})
	if err != nil {
		return 0, classify(err)
	}
	info := consumer.CachedInfo()
	// The server forgets it by itself within a second or so, which is late for one who
	// asks often.
	_ = b.js.DeleteConsumer(ctx, stream, info.Name)
	return info.NumPending, nil
}
