package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/countermand/countermand/events"
)

const (
	// fetchWait is how long a server may wait for something to come. A longer one
	// saves requests of idle readers; connections last that much longer than readers.
	fetchWait = 500 * time.Millisecond
	// fetchBytes and fetchPartitionBytes bound one answer. A single batch beyond the
	// bound comes nevertheless.
	fetchBytes          = 8 << 20
	fetchPartitionBytes = 1 << 20
)

// haul is what a fetch brought from one partition.
type haul struct {
	partition int
	messages  []fetched
	next      int64 // Kafka's offset to go on with
	err       error // a kafka.Error; the haul is empty then
}

// fetch asks the leader of the partitions for what lies at those offsets of
// Kafka's and after, waiting at most so long for the first of it.
func (b *Broker) fetch(ctx context.Context, topic events.Topic, at map[int]int64, wait time.Duration) ([]haul, error) {
	request := &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(wait.Milliseconds()), MinBytes: 1, MaxBytes: fetchBytes, SessionEpoch: -1, // no session
		Topics: []fetch.RequestTopic{{Topic: b.name(topic)}},
	}
	for partition, offset := range at {
		request.Topics[0].Partitions = append(request.Topics[0].Partitions, fetch.RequestPartition{
			Partition: int32(partition), CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: fetchPartitionBytes,
		})
	}
	// The bound is also that of the connection, which may be dead without a word.
	ctx, cancel := context.WithTimeout(ctx, wait+b.config.Timeout)
	defer cancel()
	answer, err := b.transport.RoundTrip(ctx, b.addr, request)
	if err != nil {
		return nil, err
	}
	response := answer.(*fetch.Response)
	if response.ErrorCode != 0 {
		return nil, kafka.Error(response.ErrorCode)
	}
	hauls := make([]haul, 0, len(at))
	for _, answered := range response.Topics {
		for _, partition := range answered.Partitions {
			h := haul{partition: int(partition.Partition)}
			h.next = at[h.partition]
			if partition.ErrorCode != 0 {
				h.err = kafka.Error(partition.ErrorCode)
			} else if err := h.read(topic, partition.RecordSet.Records); err != nil {
				return nil, fmt.Errorf("read partition %d at %d: %w", h.partition, h.next, err)
			}
			hauls = append(hauls, h)
		}
	}
	return hauls, nil
}

// read takes the records in. A batch may begin before the offset that was asked
// for; control batches, which end transactions, are no messages.
func (h *haul) read(topic events.Topic, records protocol.RecordReader) error {
	if records == nil {
		return nil
	}
	batches := []protocol.RecordReader{records}
	if stream, ok := records.(*protocol.RecordStream); ok {
		batches = stream.Records
	}
	for _, records := range batches {
		_, control := records.(*protocol.ControlBatch)
		for {
			record, err := records.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if err := h.take(topic, record, control); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *haul) take(topic events.Topic, record *protocol.Record, control bool) error {
	defer release(record)
	if record.Offset < h.next {
		return nil
	}
	h.next = record.Offset + 1
	if control {
		return nil
	}
	f, err := decode(topic, h.partition, record)
	if err != nil {
		return err
	}
	h.messages = append(h.messages, f)
	return nil
}

// release gives the memory of a record back.
func release(record *protocol.Record) {
	for _, b := range []protocol.Bytes{record.Key, record.Value} {
		if b != nil {
			_ = b.Close() // frees pages only
		}
	}
}
