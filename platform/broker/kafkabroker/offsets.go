package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// offsetsAt asks for Kafka's offset of each partition at a time, which may be
// kafka.FirstOffset or kafka.LastOffset. It waits for leaders as long as ctx lets
// it. A partition without a message at or after the time is not in the answer.
func (b *Broker) offsetsAt(ctx context.Context, topic events.Topic, partitions []int, at int64) (map[int]int64, error) {
	requests := make([]kafka.OffsetRequest, len(partitions))
	for i, partition := range partitions {
		requests[i] = kafka.OffsetRequest{Partition: partition, Timestamp: at}
	}
	for rest := healMin; ; rest = min(2*rest, healMax) {
		offsets, err := b.askOffsets(ctx, topic, requests, at)
		if err == nil {
			return offsets, nil
		}
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			// The client may only not know it yet, or still.
			if _, err := b.topic(ctx, topic); errors.Is(err, broker.ErrNotFound) {
				return nil, err
			}
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
		}
	}
}

func (b *Broker) askOffsets(ctx context.Context, topic events.Topic, requests []kafka.OffsetRequest, at int64) (map[int]int64, error) {
	name := b.name(topic)
	answer, err := b.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{name: requests}})
	if err != nil {
		return nil, err
	}
	offsets := make(map[int]int64)
	for _, one := range answer.Topics[name] {
		if one.Error != nil {
			return nil, one.Error
		}
		switch at {
		case kafka.FirstOffset:
			offsets[one.Partition] = one.FirstOffset
		case kafka.LastOffset:
			offsets[one.Partition] = one.LastOffset
		default:
			for offset := range one.Offsets {
				if offset >= 0 {
					offsets[one.Partition] = offset
				}
			}
		}
	}
	return offsets, nil
}

// all lists the partitions of every topic.
func (b *Broker) all() []int {
	partitions := make([]int, b.config.Partitions)
	for i := range partitions {
		partitions[i] = i
	}
	return partitions
}

// ends returns where the partitions of a topic begin and end, in Kafka's offsets.
func (b *Broker) ends(ctx context.Context, topic events.Topic, partitions []int) (first, last map[int]int64, err error) {
	if first, err = b.offsetsAt(ctx, topic, partitions, kafka.FirstOffset); err != nil {
		return nil, nil, err
	}
	if last, err = b.offsetsAt(ctx, topic, partitions, kafka.LastOffset); err != nil {
		return nil, nil, err
	}
	return first, last, nil
}

// Backlog implements [broker.Broker].
func (b *Broker) Backlog(ctx context.Context, topic events.Topic, from map[int]broker.Start) (uint64, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	partitions := make([]int, 0, len(from))
	for partition := range from {
		partitions = append(partitions, partition)
	}
	if len(partitions) == 0 {
		return 0, nil
	}
	first, last, err := b.ends(ctx, topic, partitions)
	if err != nil {
		return 0, fmt.Errorf("backlog of %s: %w", topic, err)
	}
	var total uint64
	for partition, start := range from {
		total += uint64(max(0, last[partition]-max(first[partition], int64(start.After))))
	}
	return total, nil
}

// Bounds implements [broker.Broker].
func (b *Broker) Bounds(ctx context.Context, topic events.Topic) (oldest, newest map[int]broker.Start, err error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	first, last, err := b.ends(ctx, topic, b.all())
	if err != nil {
		return nil, nil, fmt.Errorf("bounds of %s: %w", topic, err)
	}
	oldest, newest = make(map[int]broker.Start, len(first)), make(map[int]broker.Start, len(last))
	for partition := range first {
		oldest[partition] = broker.Start{After: uint64(first[partition])}
		newest[partition] = broker.Start{After: uint64(last[partition])}
	}
	return oldest, newest, nil
}

// Sequenced implements [broker.Broker]: each partition has offsets of its own.
func (b *Broker) Sequenced() bool { return false }

// Since implements [broker.Broker]. Kafka knows a message by the time that its
// publisher gave it.
func (b *Broker) Since(ctx context.Context, topic events.Topic, at time.Time) (map[int]broker.Start, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	from, err := b.since(ctx, topic, at)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", at.Format(time.RFC3339), topic, err)
	}
	return from, nil
}

func (b *Broker) since(ctx context.Context, topic events.Topic, at time.Time) (map[int]broker.Start, error) {
	// The end first: what is stored in between is after the time.
	last, err := b.offsetsAt(ctx, topic, b.all(), kafka.LastOffset)
	if err != nil {
		return nil, err
	}
	found, err := b.offsetsAt(ctx, topic, b.all(), max(0, at.UnixMilli()))
	if err != nil {
		return nil, err
	}
	from := make(map[int]broker.Start, len(last))
	for partition, end := range last {
		if offset, ok := found[partition]; ok {
			end = offset
		}
		from[partition] = broker.Start{After: uint64(end)}
	}
	return from, nil
}
