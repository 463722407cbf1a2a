package natsbroker

import (
	"context"
	"fmt"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Bounds implements [broker.Broker]. They are those of the topic's stream, which holds
// the other topics of its domain as well: a position between them is good although
// there may be no message of this topic at it.
func (b *Broker) Bounds(ctx context.Context, topic events.Topic) (oldest, newest map[int]broker.Start, err error) {
	info, err := b.streamInfo(ctx, topic)
	if err != nil {
		return nil, nil, fmt.Errorf("bounds of %s: %w", topic, err)
	}
	oldest, newest = make(map[int]broker.Start, b.config.Partitions), make(map[int]broker.Start, b.config.Partitions)
	for partition := range b.config.Partitions {
		oldest[partition] = broker.Start{After: max(info.State.FirstSeq, 1) - 1}
		newest[partition] = broker.Start{After: info.State.LastSeq}
	}
	return oldest, newest, nil
}

// Sequenced implements [broker.Broker]: offsets are sequences of the stream.
func (b *Broker) Sequenced() bool { return true }
