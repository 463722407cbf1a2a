package natsbroker

import (
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// letter is a message in the form in which it goes out, or why it cannot.
type letter struct {
	*sheet
	subject   string
	stream    string
	publishID string
	partition int
	err       error
}

// sheet is what a letter is written on. The map of its headers costs more to make than
// to fill, so sheets are used again.
type sheet struct {
	msg    nats.Msg
	values []string // of the headers, one after the other
}

var sheets = sync.Pool{New: func() any {
	return &sheet{msg: nats.Msg{Header: make(nats.Header, headersUsual)}, values: make([]string, 0, headersUsual)}
}}

// headersUsual is how many headers a command has, with those of an atomic batch.
const headersUsual = 14

// set writes a header.
func (s *sheet) set(name, value string) {
	s.values = append(s.values, value)
	last := len(s.values)
	s.msg.Header[name] = s.values[last-1 : last : last]
}

// release gives the letter's sheet to another one, once it has gone out or will not. What
// is left tells what became of it.
func (l *letter) release() {
	s := l.sheet
	if s == nil {
		return
	}
	l.sheet = nil
	clear(s.msg.Header)
	clear(s.values)
	s.msg.Subject, s.msg.Data, s.values = "", nil, s.values[:0]
	sheets.Put(s)
}

// encode puts a message into its form for the wire, after checking that it may
// go there: a line break in a header name would make a message that no consumer
// can decode, and a message beyond the server's limit would hold up its batch.
func (b *Broker) encode(stream string, message *broker.Message) letter {
	partition := broker.Partition(message.Event.Key(), b.config.Partitions)
	one := letter{subject: subject(message.Topic, partition), stream: stream, publishID: message.PublishID, partition: partition}
	if err := errors.Join(message.Topic.Validate(), message.Event.Validate()); err != nil {
		one.err = fmt.Errorf("%w: %w", broker.ErrRejected, err)
		return one
	}
	one.sheet, _ = sheets.Get().(*sheet)
	one.msg.Subject, one.msg.Data = one.subject, message.Event.Data
	size := len(message.Event.Data) + len(headerExpectedStream) + len(stream) + len(": \r\n") + batchHeaderBytes
	set := func(name, value string) {
		one.set(name, value)
		size += len(name) + len(value) + len(": \r\n")
	}
	events.NATS.Encode(&message.Event, set)
	if message.PublishID != "" {
		set(headerMsgID, events.PercentEncode(message.PublishID)) // any text is a safe header value then
	}
	if limit := b.conn.MaxPayload(); limit > 0 && int64(size) > limit {
		one.err = fmt.Errorf("%w: %d bytes with headers, and the server takes %d", broker.ErrRejected, size, limit)
	}
	return one
}

// expectStream has the server refuse the letter for any stream but the one it is meant
// for: somebody else's may have taken the subject.
func (l *letter) expectStream() { l.set(headerExpectedStream, l.stream) }

func (l *letter) receipt(ack pubAck, err error) broker.Receipt {
	if err != nil {
		return broker.Receipt{Partition: l.partition, Err: fmt.Errorf("publish to %s: %w", l.subject, err)}
	}
	return broker.Receipt{Partition: l.partition, Offset: ack.Sequence, Duplicate: ack.Duplicate}
}
