package kafkabroker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// topicInfo is what a server says of a topic.
type topicInfo struct {
	name       string
	id         uuid.UUID // another one is another topic
	partitions []partitionInfo
	err        error // kafka.UnknownTopicOrPartition: there is none
}

type partitionInfo struct {
	leader   int32
	replicas int
}

// topic asks for one topic.
func (b *Broker) topic(ctx context.Context, topic events.Topic) (topicInfo, error) {
	all, err := b.describe(ctx, topic)
	if err != nil {
		return topicInfo{}, classify(err)
	}
	info := all[0]
	if info.err != nil {
		return topicInfo{}, classify(info.err)
	}
	if info.id == uuid.Nil {
		return topicInfo{}, fmt.Errorf("%w: the server gives topics no ids; Kafka 2.8 or later is needed", broker.ErrUnavailable)
	}
	return info, nil
}

// describe asks a server for topics, in their order. What kafka-go answers comes
// from its cache and knows no topic ids.
func (b *Broker) describe(ctx context.Context, topics ...events.Topic) ([]topicInfo, error) {
	names := make([]string, len(topics))
	for i, topic := range topics {
		names[i] = b.name(topic)
	}
	answer, err := b.transport.RoundTrip(ctx, b.addr, &describeRequest{topics: names})
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	found := make(map[string]topicInfo)
	for _, info := range answer.(*describeResponse).topics {
		found[info.name] = info
	}
	all := make([]topicInfo, len(topics))
	for i, topic := range topics {
		info, ok := found[b.name(topic)]
		if !ok {
			return nil, fmt.Errorf("describe topics: the server says nothing about %s", topic)
		}
		all[i] = info
	}
	return all, nil
}

// describeRequest is a Metadata request of version 10, the first with topic ids.
// It writes and reads itself, since kafka-go knows the versions up to 8.
type describeRequest struct{ topics []string }

type describeResponse struct{ topics []topicInfo }

// ApiKey implements [protocol.Message].
func (*describeRequest) ApiKey() protocol.ApiKey { return protocol.Metadata }

// ApiKey implements [protocol.Message].
func (*describeResponse) ApiKey() protocol.ApiKey { return protocol.Metadata }

// Required implements [protocol.RawExchanger].
func (*describeRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// describeVersion and describeID are of the request. The connection has one
// request at a time, so any id will do.
const (
	describeVersion = 10
	describeID      = 0x636d // cm
)

// describeBytesMax bounds an answer that is read into memory.
const describeBytesMax = 16 << 20

// RawExchange implements [protocol.RawExchanger].
func (r *describeRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if _, err := rw.Write(r.encode()); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > describeBytesMax {
		return nil, fmt.Errorf("metadata of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(rw, body); err != nil {
		return nil, err
	}
	return decodeDescribe(body)
}

func (r *describeRequest) encode() []byte {
	order := binary.BigEndian
	p := make([]byte, 4, 64)
	p = order.AppendUint16(p, uint16(protocol.Metadata))
	p = order.AppendUint16(p, describeVersion)
	p = order.AppendUint32(p, describeID)
	p = order.AppendUint16(p, 0xffff) // no client id
	p = append(p, 0)                  // no tags
	p = binary.AppendUvarint(p, uint64(len(r.topics)+1))
	for _, topic := range r.topics {
		p = append(p, make([]byte, 16)...) // by name, not by id
		p = binary.AppendUvarint(p, uint64(len(topic)+1))
		p = append(p, topic...)
		p = append(p, 0)
	}
	p = append(p, 0, 0, 0, 0) // make no topics, tell no permissions, no tags
	order.PutUint32(p, uint32(len(p)-4))
	return p
}

func decodeDescribe(p []byte) (*describeResponse, error) {
	d := flexible{p: p}
	if id := d.int32(); id != describeID {
		return nil, fmt.Errorf("metadata answers request %d, not %d", id, describeID)
	}
	d.tags()
	d.int32()                      // throttle time
	for range d.array(4 + 1 + 4) { // brokers
		d.int32()
		d.string()
		d.int32()
		d.string()
		d.tags()
	}
	d.string() // cluster
	d.int32()  // controller
	r := &describeResponse{}
	for range d.array(2 + 1 + 16) {
		info := topicInfo{}
		if code := d.int16(); code != 0 {
			info.err = kafka.Error(code)
		}
		info.name = d.string()
		copy(info.id[:], d.take(16))
		d.take(1) // whether it is internal
		for range d.array(2 + 4 + 4 + 4) {
			d.int16() // a partition without a leader has an error and the leader -1
			index := d.int32()
			one := partitionInfo{leader: d.int32()}
			d.int32() // leader epoch
			one.replicas = d.int32s()
			d.int32s() // in sync
			d.int32s() // offline
			d.tags()
			for len(info.partitions) <= int(index) && index < 1<<16 {
				info.partitions = append(info.partitions, partitionInfo{leader: -1})
			}
			if index >= 0 && int(index) < len(info.partitions) {
				info.partitions[index] = one
			}
		}
		d.int32() // permissions
		d.tags()
		r.topics = append(r.topics, info)
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

// flexible reads the encoding that Kafka calls flexible. After the first error
// everything reads as nothing.
type flexible struct {
	p   []byte
	err error
}

var errShort = errors.New("metadata ends too early")

func (d *flexible) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.p) {
		d.err, d.p = errShort, nil
		return nil
	}
	taken := d.p[:n]
	d.p = d.p[n:]
	return taken
}

func (d *flexible) int16() int16 {
	if p := d.take(2); p != nil {
		return int16(binary.BigEndian.Uint16(p))
	}
	return 0
}

func (d *flexible) int32() int32 {
	if p := d.take(4); p != nil {
		return int32(binary.BigEndian.Uint32(p))
	}
	return 0
}

func (d *flexible) uvarint() int {
	n, size := binary.Uvarint(d.p)
	if d.err != nil || size <= 0 || n > uint64(describeBytesMax) {
		d.err, d.p = errShort, nil
		return 0
	}
	d.p = d.p[size:]
	return int(n)
}

// string reads a string; null reads as empty.
func (d *flexible) string() string {
	if n := d.uvarint(); n > 0 {
		return string(d.take(n - 1))
	}
	return ""
}

// array returns how many elements follow, which have at least so many bytes each.
func (d *flexible) array(least int) int {
	n := max(d.uvarint()-1, 0)
	if n*least > len(d.p) {
		d.err, d.p = errShort, nil
		return 0
	}
	return n
}

// int32s passes over an array of numbers and returns how many there were.
func (d *flexible) int32s() int {
	n := d.array(4)
	d.take(4 * n)
	return n
}

func (d *flexible) tags() {
	for range d.uvarint() {
		d.uvarint()
		d.take(d.uvarint())
		if d.err != nil {
			return
		}
	}
}
