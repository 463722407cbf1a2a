package kafkabroker

import (
	"context"

	"github.com/segmentio/kafka-go/protocol/metadata"
)

// partitionID names a partition, by the name that Kafka knows the topic by.
type partitionID struct {
	topic     string
	partition int
}

// leaders returns the server that leads each partition of the topics, as far as
// the client knows; negative for one that nobody leads. It costs no round trip.
// Requests are routed by the same knowledge, so partitions that share a leader here
// may share a request.
func (b *Broker) leaders(ctx context.Context, topics ...string) map[partitionID]int32 {
	answer, err := b.transport.RoundTrip(ctx, b.addr, &metadata.Request{TopicNames: topics})
	if err != nil {
		return nil
	}
	found := make(map[partitionID]int32)
	for _, topic := range answer.(*metadata.Response).Topics {
		for _, partition := range topic.Partitions {
			found[partitionID{topic.Name, int(partition.PartitionIndex)}] = partition.LeaderID
		}
	}
	return found
}
