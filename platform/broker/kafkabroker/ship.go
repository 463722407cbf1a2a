package kafkabroker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"

	"github.com/countermand/countermand/platform/broker"
)

// attemptsPerTimeout is how many attempts a publish has time for when a
// connection is dead and does not say so.
const attemptsPerTimeout = 2

// ship sends the flights, all partitions of a leader in one request, and reports
// whether anything came of it.
func (b *Broker) ship(ctx context.Context, open []*consignment) (progress bool) {
	topics := make(map[string]bool)
	for _, c := range open {
		topics[c.id.topic] = true
	}
	names := make([]string, 0, len(topics))
	for name := range topics {
		names = append(names, name)
	}
	leaders := b.leaders(ctx, names...)
	loads := make(map[int32][]*consignment)
	for _, c := range open {
		if c.flight == nil {
			continue // it has no producer id yet
		}
		leader, ok := leaders[c.id]
		if !ok {
			b.seek(ctx, c)
			continue
		}
		if leader < 0 {
			c.failed = errors.New("the partition has no leader")
			continue
		}
		loads[leader] = append(loads[leader], c)
	}
	var wait sync.WaitGroup
	results := make(chan bool, len(loads))
	for _, load := range loads {
		send := func() { results <- b.send(ctx, load) }
		if len(loads) == 1 {
			send()
			break
		}
		wait.Go(send)
	}
	wait.Wait()
	close(results)
	for one := range results {
		progress = progress || one
	}
	return progress
}

// errNoTopic says what to do about a topic that is not there.
var errNoTopic = errors.New("there is no such topic; Ensure makes it")

// seek finds out why the client does not know a partition: the topic may be new,
// or missing.
func (b *Broker) seek(ctx context.Context, c *consignment) {
	info, err := b.topic(ctx, c.topic)
	switch {
	case errors.Is(err, broker.ErrNotFound):
		c.fail(fmt.Errorf("%w: %w", broker.ErrUnavailable, errNoTopic))
	case err != nil:
		c.failed = err
	case c.id.partition >= len(info.partitions):
		c.fail(fmt.Errorf("%w: the topic has %d partitions", broker.ErrUnavailable, len(info.partitions)))
	default:
		c.failed = errors.New("the topic is new and not known to the client yet")
	}
}

// send publishes the flights of one leader and reports whether any of them has
// come to an end.
func (b *Broker) send(ctx context.Context, load []*consignment) (progress bool) {
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout/attemptsPerTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	request := &rawproduce.Request{Acks: int16(kafka.RequireAll), Timeout: int32(time.Until(deadline).Milliseconds())}
	byID := make(map[partitionID]*consignment, len(load))
	for _, c := range load {
		c.flight.sent = true
		byID[c.id] = c
		partition := rawproduce.RequestPartition{
			Partition: int32(c.id.partition), RecordSet: protocol.RawRecordSet{Reader: bytes.NewReader(c.flight.batch.bytes)},
		}
		if last := len(request.Topics) - 1; last >= 0 && request.Topics[last].Topic == c.id.topic {
			request.Topics[last].Partitions = append(request.Topics[last].Partitions, partition)
			continue
		}
		request.Topics = append(request.Topics, rawproduce.RequestTopic{Topic: c.id.topic, Partitions: []rawproduce.RequestPartition{partition}})
	}
	answer, err := b.transport.RoundTrip(ctx, b.addr, request)
	if err != nil {
		for _, c := range load {
			c.failed = err
		}
		return false
	}
	for _, topic := range answer.(*produce.Response).Topics {
		for _, partition := range topic.Partitions {
			c := byID[partitionID{topic.Topic, int(partition.Partition)}]
			if c != nil && c.flight != nil && c.settle(kafka.Error(partition.ErrorCode), partition.BaseOffset) {
				progress = true
			}
		}
	}
	return progress
}

// settle notes the server's answer and reports whether the flight has come to an
// end. One that has not is sent again with the same bytes.
func (c *consignment) settle(code kafka.Error, base int64) bool {
	switch code {
	case 0, kafka.DuplicateSequenceNumber:
		c.stored(base)
		return true
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidRecord, kafka.InvalidMessage:
		if code == kafka.InvalidMessage { // the bytes were damaged on their way
			c.failed = code
			return false
		}
		c.refuse(code)
		return true
	case kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId, kafka.InvalidProducerEpoch, kafka.InvalidProducerIDMapping, kafka.ProducerFenced:
		// The server has lost what it knew of us, and has not stored this: begin anew
		// under another identity.
		c.failed = code
		c.line.known = false
		f := c.flight
		c.flight = nil
		c.indexes = append(append([]int(nil), f.indexes...), c.indexes...)
		return true
	case kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed:
		c.fail(fmt.Errorf("%w: allow the operations Write and IdempotentWrite: %w", broker.ErrUnavailable, code))
		return true
	default:
		c.failed = code
		return false
	}
}
