package kafkabroker

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// messageBytesMax is what a topic takes per batch: a message of the greatest size
// with its attributes, and room for what the format adds.
const messageBytesMax = broker.MessageBytesMax + 64<<10

// batchBytes is how large a batch of several messages may become. It is below
// the limit that a server has by default.
const batchBytes = 900 << 10

// headerPublishID carries the publish id for those that look for copies.
const headerPublishID = "countermand-publish-id"

// Places in a record batch of version 2, behind the size that precedes it on the
// wire.
const (
	sizePrefix       = 4
	atBatchLength    = sizePrefix + 8
	atCRC            = sizePrefix + 17
	atAttributes     = sizePrefix + 21
	atLastDelta      = sizePrefix + 23
	atFirstTime      = sizePrefix + 27
	atMaxTime        = sizePrefix + 35
	atProducer       = sizePrefix + 43
	atEpoch          = sizePrefix + 51
	atSequence       = sizePrefix + 53
	atCount          = sizePrefix + 57
	batchHeaderBytes = sizePrefix + 61
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batch is a record batch that is being written. kafka-go writes batches too, but
// always without the producer id and sequence that make a repeat harmless.
type batch struct {
	bytes []byte
	count int
	// scratch holds the record that is being written: its length goes before it.
	scratch []byte
}

// add appends a message. It reports false, and adds nothing, when the batch has
// messages and would become too large.
func (b *batch) add(m *broker.Message, withPublishID bool) bool {
	if b.bytes == nil {
		b.bytes = make([]byte, batchHeaderBytes, batchHeaderBytes+1024+len(m.Event.Data))
	}
	r := b.scratch[:0]
	r = append(r, 0)                           // attributes: none are defined
	r = binary.AppendVarint(r, 0)              // time after the batch's
	r = binary.AppendVarint(r, int64(b.count)) // offset after the batch's
	r = appendBytes(r, m.Event.Key())
	if len(m.Event.Data) == 0 {
		r = binary.AppendVarint(r, -1) // no data is a null value
	} else {
		r = binary.AppendVarint(r, int64(len(m.Event.Data)))
		r = append(r, m.Event.Data...)
	}
	headers := 0
	events.Kafka.Encode(&m.Event, func(string, string) { headers++ })
	withPublishID = withPublishID && m.PublishID != ""
	if withPublishID {
		headers++
	}
	r = binary.AppendVarint(r, int64(headers))
	events.Kafka.Encode(&m.Event, func(name, value string) {
		r = appendBytes(r, name)
		r = appendBytes(r, value)
	})
	if withPublishID {
		r = appendBytes(r, headerPublishID)
		r = appendBytes(r, m.PublishID)
	}
	b.scratch = r
	if b.count > 0 && len(b.bytes)+len(r)+binary.MaxVarintLen32 > batchBytes {
		return false
	}
	b.bytes = binary.AppendVarint(b.bytes, int64(len(r)))
	b.bytes = append(b.bytes, r...)
	b.count++
	return true
}

func appendBytes(to []byte, s string) []byte {
	to = binary.AppendVarint(to, int64(len(s)))
	return append(to, s...)
}

// seal fills the header in. It may be called again, with another identity.
func (b *batch) seal(at time.Time, id identity) {
	p := b.bytes
	order := binary.BigEndian
	order.PutUint32(p, uint32(len(p)-sizePrefix))
	order.PutUint32(p[atBatchLength:], uint32(len(p)-atBatchLength-4))
	order.PutUint32(p[atBatchLength+4:], 0xffffffff) // leader epoch: the server's business
	p[atBatchLength+8] = 2                           // version of the format
	order.PutUint16(p[atAttributes:], 0)             // no compression, time of the publisher
	order.PutUint32(p[atLastDelta:], uint32(b.count-1))
	order.PutUint64(p[atFirstTime:], uint64(at.UnixMilli()))
	order.PutUint64(p[atMaxTime:], uint64(at.UnixMilli()))
	order.PutUint64(p[atProducer:], uint64(id.producer))
	order.PutUint16(p[atEpoch:], uint16(id.epoch))
	order.PutUint32(p[atSequence:], uint32(id.sequence))
	order.PutUint32(p[atCount:], uint32(b.count))
	order.PutUint32(p[atCRC:], crc32.Checksum(p[atAttributes:], castagnoli))
}

// fetched is a message as it was read.
type fetched struct {
	broker.Delivery
	publishID string // when its publisher left it
}

// decode reads a record. What is no CloudEvent is delivered as malformed, because
// dropping it would lose it and refusing it would stop the partition.
func decode(topic events.Topic, partition int, r *protocol.Record) (fetched, error) {
	data, err := protocol.ReadAll(r.Value)
	if err != nil {
		return fetched{}, err
	}
	f := fetched{Delivery: broker.Delivery{Topic: topic, Partition: partition, Offset: uint64(r.Offset) + 1, StoredAt: r.Time}}
	decoder := events.Kafka.Decoder()
	for _, header := range r.Headers {
		if header.Key == headerPublishID {
			f.publishID = string(header.Value)
			continue
		}
		decoder.Header(header.Key, string(header.Value))
	}
	f.Event, f.Malformed = decoder.Event(data)
	if f.Malformed != nil {
		f.Event = events.Event{ID: fmt.Sprintf("malformed-%s-%d-%d", topic, partition, f.Offset), Data: data}
	}
	return f, nil
}
