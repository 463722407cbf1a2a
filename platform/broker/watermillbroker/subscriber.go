package watermillbroker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// SubscriberConfig of a [Subscriber]. Group is required; the zero value of every
// other field is its default.
type SubscriberConfig struct {
	// Group shares the messages of a topic: each goes to one of the subscribers,
	// in any process, that name the same group. A new group begins with the oldest
	// message of the topic. It holds neither dots nor spaces.
	Group string
	// AckDeadline is how long a message that was handed out may go without an ack
	// or a nack: a minute by default. Its context ends then and it is delivered
	// again. The broker waits as long as it takes, so without a bound a handler
	// that hangs would stop its partition for good.
	AckDeadline time.Duration
	// CloseTimeout is how long the end of a subscription waits for the messages
	// that are being handled: 10 s by default. The contexts of those that are left
	// end then and they are delivered again.
	CloseTimeout time.Duration
	// BackoffMin and BackoffMax bound the rest before a message is delivered
	// again: 100 ms, doubling with each attempt, to 30 s by default.
	BackoffMin, BackoffMax time.Duration
	// Malformed is called with a delivery that is no event, which no handler would
	// know what to do with. The delivery is done with when it returns nil, and
	// comes again otherwise. By default it is logged; its bytes stay in the topic.
	Malformed func(ctx context.Context, delivery broker.Delivery) error
	Logger    *slog.Logger
}

func (c SubscriberConfig) withDefaults() SubscriberConfig {
	if c.AckDeadline == 0 {
		c.AckDeadline = time.Minute
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = 10 * time.Second
	}
	if c.BackoffMin == 0 {
		c.BackoffMin = 100 * time.Millisecond
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Malformed == nil {
		c.Malformed = func(ctx context.Context, d broker.Delivery) error {
			c.Logger.ErrorContext(ctx, "message is no event and is passed over", "group", c.Group, "topic", d.Topic,
				"partition", d.Partition, "offset", d.Offset, "error", d.Malformed)
			return nil
		}
	}
	return c
}

// Subscriber is a [message.Subscriber]. Make it with [NewSubscriber]; it is safe
// for concurrent use.
type Subscriber struct {
	broker broker.Broker
	config SubscriberConfig

	closing context.Context
	close   context.CancelFunc

	mu      sync.Mutex // orders Subscribe and Close
	running sync.WaitGroup
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber returns a subscriber to b, which it does not close.
func NewSubscriber(b broker.Broker, config SubscriberConfig) *Subscriber {
	s := &Subscriber{broker: b, config: config.withDefaults()}
	s.closing, s.close = context.WithCancel(context.Background())
	return s
}

// SubscribeInitialize creates the topic, so that it can be published to before
// anyone subscribes.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	return s.broker.Ensure(s.closing, events.Topic(topic))
}

// Subscribe joins the group on the topic, which is created when it does not
// exist. Messages come one at a time per partition; the next one follows the
// ack, and a nack brings the same one again after a rest.
//
// The channel is closed when ctx ends or the subscriber is closed, after the
// messages that are being handled have been acked or nacked, or CloseTimeout is
// over. The context of a message has the values of ctx but not its end: work in
// hand is finished. It ends with the ack or nack, and with the deadlines of the
// config.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	if s.closing.Err() != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("subscribe to %s: %w", topic, ErrClosed)
	}
	s.running.Add(1) // under the lock: Close must not be waiting yet
	s.mu.Unlock()

	intake, stop := context.WithCancel(ctx)
	detach := context.AfterFunc(s.closing, stop)
	handling, abandon := context.WithCancel(context.WithoutCancel(ctx))
	sub := &subscription{
		broker: s.broker, config: s.config, topic: events.Topic(topic),
		out: make(chan *message.Message), intake: intake, handling: handling,
	}
	end := func() {
		detach()
		stop()
		abandon()
		s.running.Done()
	}
	if err := sub.join(); err != nil {
		end()
		return nil, err
	}
	context.AfterFunc(intake, func() { time.AfterFunc(s.config.CloseTimeout, abandon) })
	go func() {
		defer end()
		sub.run()
	}()
	return sub.out, nil
}

// Close ends all subscriptions and returns when their channels are closed: see
// [Subscriber.Subscribe] for what becomes of the messages in hand. It may be
// called more than once and always returns nil.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.close()
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// subscription moves deliveries of a group to a channel.
type subscription struct {
	broker   broker.Broker
	config   SubscriberConfig
	topic    events.Topic
	group    broker.Group
	out      chan *message.Message
	intake   context.Context // ends when no more messages are wanted
	handling context.Context // ends when the ones in hand are given up
	inHand   sync.WaitGroup
}

func (s *subscription) join() error {
	if err := s.broker.Ensure(s.intake, s.topic); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	group, err := s.broker.Subscribe(s.intake, s.topic, s.config.Group)
	if err != nil {
		return err
	}
	s.group = group
	return nil
}

// rejoinRest is the rest before a group that failed is joined again.
const rejoinRest = time.Second

// run delivers until intake ends. A group that fails is joined again.
func (s *subscription) run() {
	defer close(s.out)
	for {
		err := s.receive()
		s.inHand.Wait()
		s.group.Close() // after the last ack: a member that has left has no say
		for err != nil {
			if s.intake.Err() != nil {
				return
			}
			s.config.Logger.Warn("subscription was lost and is renewed", "group", s.config.Group, "topic", s.topic, "error", err)
			select {
			case <-time.After(rejoinRest):
			case <-s.intake.Done():
				return
			}
			err = s.join()
		}
	}
}

// receive hands deliveries out until the group gives no more.
func (s *subscription) receive() error {
	for {
		delivery, err := s.group.Next(s.intake)
		if err != nil {
			return err
		}
		s.inHand.Go(func() { s.deliver(delivery) }) // the group gives one at a time per partition
	}
}

// deliver hands one message out and tells the broker what became of it.
func (s *subscription) deliver(d broker.GroupDelivery) {
	ctx, cancel := context.WithCancel(s.handling)
	defer cancel()
	if d.Malformed != nil {
		s.settle(d, s.config.Malformed(ctx, d.Delivery) == nil)
		return
	}
	m := MessageOf(&d.Event)
	m.SetContext(context.WithValue(ctx, deliveryKey{}, &d))
	select {
	case s.out <- m:
	case <-s.intake.Done():
		s.retry(d, 0) // nobody has seen it
		return
	}
	deadline := time.AfterFunc(s.config.AckDeadline, cancel)
	defer deadline.Stop()
	select {
	case <-m.Acked():
		s.settle(d, true)
	case <-m.Nacked():
		s.settle(d, false)
	case <-ctx.Done():
		select {
		case <-m.Acked(): // at the last moment
			s.settle(d, true)
		default:
			s.config.Logger.Warn("message was not acknowledged in time and is delivered again", "group", s.config.Group,
				"topic", s.topic, "partition", d.Partition, "offset", d.Offset, "event_id", d.Event.ID, "attempt", d.Attempt)
			s.settle(d, false)
		}
	}
}

// ackTimeout bounds how long an ack may take.
const ackTimeout = 10 * time.Second

// settle ends the attempt at a delivery.
func (s *subscription) settle(d broker.GroupDelivery, done bool) {
	if !done {
		s.retry(d, min(s.config.BackoffMax, s.config.BackoffMin<<min(max(d.Attempt-1, 0), 20)))
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.handling), ackTimeout)
	defer cancel()
	if err := d.Ack(ctx); err != nil {
		s.unsettled(d, err)
	}
}

func (s *subscription) retry(d broker.GroupDelivery, rest time.Duration) {
	if err := d.Retry(rest); err != nil {
		s.unsettled(d, err)
	}
}

// unsettled reports that the broker does not know how an attempt ended. It
// delivers the message again by itself.
func (s *subscription) unsettled(d broker.GroupDelivery, err error) {
	s.config.Logger.Warn("broker was not told of a message's end and delivers it again", "group", s.config.Group,
		"topic", s.topic, "partition", d.Partition, "offset", d.Offset, "event_id", d.Event.ID, "error", err)
}
