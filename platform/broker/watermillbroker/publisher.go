package watermillbroker

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// ErrClosed is returned by a publisher or subscriber that was closed.
var ErrClosed = errors.New("closed")

// Publisher is a [message.Publisher]. Make it with [NewPublisher]; it is safe
// for concurrent use.
type Publisher struct {
	broker broker.Publisher
	closed atomic.Bool
}

var _ message.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher to b, which it does not close.
func NewPublisher(b broker.Publisher) *Publisher { return &Publisher{broker: b} }

// Publish stores the messages durably on the topic, in their order, and returns
// when they are. The topic must exist. A message of the same topic, source and
// UUID that is published again within the broker's window of about two minutes
// is stored once.
//
// On an error the messages before the first that failed are stored, and none
// after it; publishing all of them again keeps the order. The error wraps
// [events.ErrInvalid] when a message is not one an event can be made of, and
// then nothing is stored. The context of the first message bounds the wait.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if p.closed.Load() {
		return fmt.Errorf("publish to %s: %w", topic, ErrClosed)
	}
	if len(messages) == 0 {
		return nil
	}
	to := events.Topic(topic)
	if err := to.Validate(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	batch := make([]broker.Message, len(messages))
	for i, m := range messages {
		e, err := EventOf(m)
		if err != nil {
			return fmt.Errorf("publish to %s: %w", topic, err)
		}
		batch[i] = broker.Message{Topic: to, PublishID: events.DeriveID(topic, e.Source, e.ID), Event: e}
	}
	for len(batch) > 0 {
		chunk := batch[:min(len(batch), broker.BatchMessagesMax)]
		batch = batch[len(chunk):]
		for i, receipt := range p.broker.PublishBatch(messages[0].Context(), chunk) {
			if receipt.Err != nil {
				return fmt.Errorf("publish message %q to %s: %w", chunk[i].Event.ID, topic, receipt.Err)
			}
		}
	}
	return nil
}

// Close makes further calls of Publish fail with [ErrClosed]. Nothing is
// buffered, so there is nothing to flush. It may be called more than once and
// always returns nil.
func (p *Publisher) Close() error {
	p.closed.Store(true)
	return nil
}
