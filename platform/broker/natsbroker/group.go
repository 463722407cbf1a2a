package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// ackWaitDefault is how long a member may be silent before its message goes to
// another. A member that lives says so three times as often.
const ackWaitDefault = 10 * time.Second

// pullMax is how many messages a member asks for. The server sends one at a time
// all the same, but asking for one would stall: the client (nats.go 1.55) asks
// again when half of them have come, and looks at that once per message and not
// at all while its last request is being sent. Should that take as long as all
// the messages that are left, it asks no more until two heartbeats are missed. Its
// channel has as many places, and a message that finds it full of heartbeats,
// which pile up while one is handled, is dropped.
const pullMax = 256

// group is a member of a consumer group: one durable consumer per partition,
// shared by all members. MaxAckPending 1 makes the server hold a partition back
// until its one message is acknowledged, whoever has it, which keeps the order
// with no coordination among members.
type group struct {
	topic   events.Topic
	conn    *nats.Conn
	ackWait time.Duration
	queue   chan broker.GroupDelivery // unbuffered: a message waits with its partition, not here
	failed  chan error                // capacity 1: the first failure says it all
	stop    context.CancelFunc
	pumping sync.WaitGroup
}

// Subscribe implements [broker.Broker]. A new group begins with the oldest
// message of the topic.
func (b *Broker) Subscribe(ctx context.Context, topic events.Topic, name string) (broker.Group, error) {
	if name == "" || strings.ContainsAny(name, ".*> \t\r\n/\\") {
		return nil, fmt.Errorf("subscribe to %s: group name %q must not be empty or hold dots, wildcards, slashes or spaces", topic, name)
	}
	ctx, cancel := b.bound(ctx)
	defer cancel()
	run, stop := context.WithCancel(context.Background())
	g := &group{topic: topic, conn: b.conn, ackWait: b.ackWait, queue: make(chan broker.GroupDelivery), failed: make(chan error, 1), stop: stop}
	for partition := range b.config.Partitions {
		iterator, err := b.iterator(ctx, topic, partition, name)
		if err != nil {
			g.Close()
			return nil, fmt.Errorf("subscribe to %s as %s: %w", topic, name, classify(err))
		}
		g.pumping.Go(func() { g.pump(run, iterator) })
	}
	return g, nil
}

func (b *Broker) iterator(ctx context.Context, topic events.Topic, partition int, name string) (jetstream.MessagesContext, error) {
	consumer, err := b.js.CreateOrUpdateConsumer(ctx, streamName(topic.Domain()), jetstream.ConsumerConfig{
		// A tilde is in no topic, so that a.b_c and a.b.c are two names.
		Durable:       name + "_" + strings.ReplaceAll(string(topic), ".", "~") + "_" + strconv.Itoa(partition),
		FilterSubject: subject(topic, partition),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       b.ackWait,
		MaxAckPending: 1,
		MaxDeliver:    -1, // attempts are counted by whoever decides to give up
		DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return nil, err
	}
	return consumer.Messages(jetstream.PullMaxMessages(pullMax))
}

func (g *group) pump(ctx context.Context, iterator jetstream.MessagesContext) {
	defer giveBack(iterator)
	for {
		msg, err := iterator.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = msg.Nak()
			}
			return
		case errors.Is(err, jetstream.ErrMsgIteratorClosed), errors.Is(err, jetstream.ErrConsumerDeleted):
			select {
			case g.failed <- fmt.Errorf("read %s: %w: %w", g.topic, broker.ErrUnavailable, err):
			default:
			}
			return
		case err != nil: // it heals by itself
			select {
			case <-time.After(healMin):
			case <-ctx.Done():
			}
		case !g.hold(ctx, msg):
			return
		}
	}
}

// giveBack ends an iterator. What is on its way to it goes to another member at
// once, where it would otherwise wait for ackWait.
func giveBack(iterator jetstream.MessagesContext) {
	defer iterator.Stop()
	iterator.Drain()
	for {
		msg, err := iterator.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			return
		}
		_ = msg.Nak()
	}
}

// hold hands a message over and keeps it alive until its member has settled it.
// It reports false when the group closes first; another member gets it then.
func (g *group) hold(ctx context.Context, msg jetstream.Msg) bool {
	meta, err := msg.Metadata()
	if err != nil {
		return true // no message of a stream
	}
	settled := make(chan struct{})
	var once sync.Once
	settle := func() { once.Do(func() { close(settled) }) }
	d := broker.GroupDelivery{
		Delivery: delivery(g.topic, msg.Subject(), meta.Sequence.Stream, meta.Timestamp, msg.Headers(), msg.Data()),
		Attempt:  int(meta.NumDelivered),
		Ack: func(ctx context.Context) error {
			defer settle()
			return g.acknowledge(ctx, msg)
		},
		Retry: func(delay time.Duration) error {
			defer settle()
			return msg.NakWithDelay(delay)
		},
	}
	alive := time.NewTicker(g.ackWait / 3)
	defer alive.Stop()
	queue := g.queue
	for {
		select {
		case queue <- d:
			queue = nil
		case <-settled:
			return true
		case <-alive.C:
			_ = msg.InProgress() // if it is lost, the next one is in time
		case <-ctx.Done():
			_ = msg.Nak()
			return false
		}
	}
}

// ackAttempt is how long the server may take to confirm an ack before it is sent
// again. What was on its way when a connection broke is lost, and the partition would
// stand still for ackWait.
const ackAttempt = 2 * time.Second

// acknowledge acks a message until the server confirms it or ctx ends. A server that
// says nothing to two attempts has forgotten that it delivered the message, which a
// crash does to it, and delivers it again as soon as this one is given up.
func (g *group) acknowledge(ctx context.Context, msg jetstream.Msg) error {
	for unanswered := 0; ; {
		connected := g.conn.IsConnected()
		attempt, cancel := context.WithTimeout(ctx, ackAttempt)
		err := msg.DoubleAck(attempt)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		if connected && g.conn.IsConnected() {
			if unanswered++; unanswered == 2 {
				return err
			}
		}
	}
}

// Next implements [broker.Group].
func (g *group) Next(ctx context.Context) (broker.GroupDelivery, error) {
	select {
	case d := <-g.queue:
		return d, nil
	case err := <-g.failed:
		g.failed <- err // for the next call
		return broker.GroupDelivery{}, err
	case <-ctx.Done():
		return broker.GroupDelivery{}, ctx.Err()
	}
}

// Close implements [broker.Group].
func (g *group) Close() {
	g.stop()
	g.pumping.Wait()
}
