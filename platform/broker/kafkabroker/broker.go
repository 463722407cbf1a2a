package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Limits of the client that nobody needs to set.
const (
	// metadataTTL is how old the client's view of leaders may be: after a failover
	// requests go astray for that long.
	metadataTTL = 2 * time.Second
	dialTimeout = 3 * time.Second
	// healMin and healMax bound the rest before something is tried again.
	healMin, healMax = 50 * time.Millisecond, time.Second
)

// Broker implements [broker.Broker] on a Kafka cluster. Make it with [New] and
// close it when everything that uses it has ended.
type Broker struct {
	config     Config
	addr       net.Addr
	transport  *transport
	client     *kafka.Client
	dialer     *kafka.Dialer // of groups, which manage their own connections
	producer   *producer
	duplicates *duplicates // nil: copies are not looked for
}

var _ broker.Broker = (*Broker)(nil)

// New returns a broker. It does no I/O.
func New(config Config) (*Broker, error) {
	config = config.withDefaults()
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	mechanism, err := config.mechanism()
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	b := &Broker{
		config: config,
		addr:   kafka.TCP(config.Addrs...),
		transport: &transport{Transport: &kafka.Transport{
			Dial: config.Dial, DialTimeout: config.Timeout, MetadataTTL: metadataTTL, ClientID: config.ClientID, TLS: config.TLS, SASL: mechanism,
		}},
		dialer: &kafka.Dialer{
			DialFunc: config.Dial, Timeout: dialTimeout, ClientID: config.ClientID, TLS: config.TLS, SASLMechanism: mechanism,
		},
	}
	b.client = &kafka.Client{Addr: b.addr, Transport: b.transport}
	b.producer = newProducer()
	if config.DuplicateWindow > 0 {
		b.duplicates = newDuplicates(b, config.DuplicateWindow)
	}
	return b, nil
}

// Close closes the connections. Readers and groups are to be closed before.
func (b *Broker) Close() {
	if b.duplicates != nil {
		b.duplicates.close()
	}
	b.transport.CloseIdleConnections()
}

// Partitions implements [broker.Broker].
func (b *Broker) Partitions() int { return b.config.Partitions }

// Ping implements [broker.Broker]: a server answers.
func (b *Broker) Ping(ctx context.Context) error {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	if _, err := b.describe(ctx); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	return nil
}

// Epoch implements [broker.Broker]: the id that Kafka gave the topic when it was
// made.
func (b *Broker) Epoch(ctx context.Context, topic events.Topic) (string, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	info, err := b.topic(ctx, topic)
	if err != nil {
		return "", fmt.Errorf("epoch of %s: %w", topic, err)
	}
	return info.id.String(), nil
}

// name returns what Kafka knows the topic by.
func (b *Broker) name(topic events.Topic) string { return b.config.TopicPrefix + string(topic) }

func (b *Broker) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.config.Timeout)
}

// classify gives an error of a request its meaning for callers of other packages.
func classify(err error) error {
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrUnavailable) {
		return err
	}
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		return fmt.Errorf("%w: %w", broker.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
}
