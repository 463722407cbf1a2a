package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

const (
	// groupPrefetch is how many messages wait behind the one that a member has of a
	// partition.
	groupPrefetch = 16
	// joinBackoff is the rest before a group that could not be joined is joined again.
	joinBackoff = 500 * time.Millisecond
	// closePatience is how long a member that leaves waits for an answer of the group.
	closePatience = time.Second
)

// group is a member of a consumer group. Kafka gives it partitions for one
// generation at a time; a tenure is its time with them.
type group struct {
	broker *Broker
	topic  events.Topic
	name   string // of the topic, to Kafka
	id     string // of the group, to Kafka
	epoch  string // of the topic
	member *kafka.ConsumerGroup
	lines  *connections
	queue  chan broker.GroupDelivery // unbuffered: a message waits with its partition, not here
	failed chan error                // capacity 1: the first failure says it all
	closed context.Context
	stop   context.CancelFunc
	ended  chan struct{}
}

// Subscribe implements [broker.Broker]. A new group begins with the oldest
// message of the topic. The group of Kafka is <name>.<prefix><topic>.
//
// Kafka counts no attempts: the count begins anew with each member that gets the
// message. And when members come or go, all of them stop until each has settled
// its messages in hand, for at most [Config.RebalanceGrace].
func (b *Broker) Subscribe(ctx context.Context, topic events.Topic, name string) (broker.Group, error) {
	if name == "" || strings.ContainsAny(name, ".*> \t\r\n/\\") {
		return nil, fmt.Errorf("subscribe to %s: group name %q must not be empty or hold dots, wildcards, slashes or spaces", topic, name)
	}
	ctx, cancel := b.bound(ctx)
	defer cancel()
	info, err := b.topic(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s as %s: %w", topic, name, err)
	}
	g := &group{
		broker: b, topic: topic, name: b.name(topic), id: name + "." + b.name(topic), epoch: info.id.String(), lines: &connections{dial: b.dialer.DialFunc},
		queue: make(chan broker.GroupDelivery), failed: make(chan error, 1), ended: make(chan struct{}),
	}
	dialer := *b.dialer
	dialer.DialFunc = g.lines.open
	g.member, err = kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: g.id, Brokers: b.config.Addrs, Dialer: &dialer, Topics: []string{g.name}, StartOffset: kafka.FirstOffset,
		SessionTimeout: b.config.SessionTimeout, HeartbeatInterval: b.config.SessionTimeout / 20,
		RebalanceTimeout: b.config.SessionTimeout, JoinGroupBackoff: joinBackoff, Timeout: b.config.Timeout,
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s as %s: %w", topic, name, err)
	}
	g.closed, g.stop = context.WithCancel(context.Background())
	go func() {
		defer close(g.ended)
		g.run()
	}()
	return g, nil
}

// run serves one generation after the other.
func (g *group) run() {
	log := g.broker.config.Logger.With("group", g.id)
	for {
		generation, err := g.member.Next(g.closed)
		switch {
		case g.closed.Err() != nil:
			return
		case err != nil:
			log.WarnContext(g.closed, "group cannot be joined yet", "error", err)
			if err := g.check(); err != nil {
				g.fail(err)
				return
			}
			continue
		}
		partitions := generation.Assignments[g.name]
		log.DebugContext(g.closed, "group has a new generation", "generation", generation.ID, "partitions", len(partitions))
		served := make(chan struct{})
		generation.Start(func(ctx context.Context) {
			defer close(served)
			g.serve(ctx, generation, partitions)
		})
		<-served
	}
}

// check returns an error when the topic is gone.
func (g *group) check() error {
	ctx, cancel := g.broker.bound(g.closed)
	defer cancel()
	if _, err := g.broker.topic(ctx, g.topic); errors.Is(err, broker.ErrNotFound) {
		return err
	}
	return nil
}

func (g *group) fail(err error) {
	select {
	case g.failed <- fmt.Errorf("read %s: %w: %w", g.topic, broker.ErrUnavailable, err):
	default:
	}
}

// serve holds the partitions of a generation until it ends.
func (g *group) serve(ctx context.Context, generation *kafka.Generation, partitions []kafka.PartitionAssignment) {
	if len(partitions) == 0 {
		<-ctx.Done()
		return
	}
	positions := make(map[int]int64, len(partitions))
	for _, one := range partitions {
		positions[one.ID] = max(0, one.Offset) // below zero: none has been committed
	}
	t := newTenure(func(offsets map[int]int64) error {
		return generation.CommitOffsets(map[string]map[int]int64{g.name: offsets})
	}, positions)
	var holding, committing sync.WaitGroup
	committing.Go(t.run)
	for partition, next := range positions {
		holding.Go(func() { g.hold(ctx, t, partition, next) })
	}
	holding.Wait()
	t.end()
	committing.Wait()
}

// hold hands the messages of a partition out, one after the other, until the
// generation ends.
func (g *group) hold(ctx context.Context, t *tenure, partition int, next int64) {
	r := g.broker.open(g.topic, g.epoch, map[int]broker.Start{partition: {After: uint64(next)}}, groupPrefetch)
	defer r.Close()
	for {
		message, err := r.one(ctx)
		if err != nil {
			if ctx.Err() == nil { // the topic is gone
				g.fail(err)
				<-ctx.Done()
			}
			return
		}
		if !g.settle(ctx, t, message.Delivery) {
			return
		}
	}
}

// settle hands a message out until it is acknowledged. It reports false when the
// generation ends first.
func (g *group) settle(ctx context.Context, t *tenure, d broker.Delivery) bool {
	for attempt := 1; ; attempt++ {
		h := newHandout(t, d, attempt)
		select {
		case g.queue <- h.delivery():
		case <-ctx.Done():
			return false
		}
		select {
		case <-h.settled:
		case <-ctx.Done():
			// The partition is wanted by the group, which waits: let the handler finish, so
			// that nobody else begins with the same message.
			select {
			case <-h.settled:
			case <-g.closed.Done():
			case <-time.After(g.broker.config.RebalanceGrace):
			}
			h.abandon()
			return false
		}
		if h.done {
			return true
		}
		select {
		case <-time.After(h.delay):
		case <-ctx.Done():
			return false
		}
	}
}

// Next implements [broker.Group].
func (g *group) Next(ctx context.Context) (broker.GroupDelivery, error) {
	select {
	case d := <-g.queue:
		return d, nil
	case err := <-g.failed:
		select {
		case g.failed <- err: // for the next call
		default: // another partition has failed meanwhile, which tells it the same
		}
		return broker.GroupDelivery{}, err
	case <-ctx.Done():
		return broker.GroupDelivery{}, ctx.Err()
	}
}

// Close implements [broker.Group].
func (g *group) Close() {
	g.stop()
	// A member that is just joining waits for all the others to be done with their
	// messages. This one does not want its partitions any more.
	impatient := time.AfterFunc(closePatience, g.lines.cut)
	defer impatient.Stop()
	_ = g.member.Close() // it always returns nil
	<-g.ended
}

// connections are those that a member has to the servers of its group.
type connections struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu  sync.Mutex
	all []net.Conn
}

func (c *connections) open(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tracked := &connection{Conn: conn, of: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, tracked)
	return tracked, nil
}

// cut closes what is open now. What is opened later, to take leave, is not.
func (c *connections) cut() {
	c.mu.Lock()
	all := slices.Clone(c.all)
	c.mu.Unlock()
	for _, conn := range all {
		_ = conn.Close() // whoever uses it is told
	}
}

type connection struct {
	net.Conn
	of *connections
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.of.mu.Lock()
	c.of.all = slices.DeleteFunc(c.of.all, func(one net.Conn) bool { return one == net.Conn(c) })
	c.of.mu.Unlock()
	return c.Conn.Close()
}
