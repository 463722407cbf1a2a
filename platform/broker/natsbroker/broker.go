package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// DefaultPartitions is how many partitions a topic has.
const DefaultPartitions = 8

// Config of a [Broker]. The zero value of a field is its default.
type Config struct {
	// Partitions of every topic: 8 by default. It is fixed when a stream is made;
	// a later start with another number is refused, since it would reorder keys.
	Partitions int
	// Replicas of each stream: 1 by default, 3 on a cluster.
	Replicas int
	// MaxAge of messages: 7 days by default. It bounds how far back a reader may
	// replay and must be longer than any consumer may be away.
	MaxAge time.Duration
	// MaxBytes of each stream; 0 means no limit but the server's. A full stream
	// refuses new messages, it never drops old ones.
	MaxBytes int64
	// AtomicFrom is the batch size from which messages are published as one
	// atomic batch: 12 by default, by measurement (an atomic batch has a fixed
	// cost of staging files, a single message one fsync).
	AtomicFrom int
	// RestMax bounds how long a stream rests between two atomic batches, unless many
	// messages wait: 3 ms by default, negative for no rest. A batch has a fixed
	// cost, so a rest of twice the time that the last one took makes them larger
	// while the stream is busy. After a small batch it is shorter, and it delays
	// nothing on an idle stream.
	RestMax time.Duration
	// Timeout of one publish or request: 5 s by default.
	Timeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Partitions == 0 {
		c.Partitions = DefaultPartitions
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxAge == 0 {
		c.MaxAge = 7 * 24 * time.Hour
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = -1
	}
	if c.AtomicFrom == 0 {
		c.AtomicFrom = 12
	}
	if c.RestMax == 0 {
		c.RestMax = 3 * time.Millisecond
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	return c
}

// duplicateWindow is how long the server remembers publish ids. Longer windows
// cost server memory; the inbox removes what comes later.
const duplicateWindow = 2 * time.Minute

// partitionsKey is the stream metadata that records the number of partitions.
const partitionsKey = "countermand-partitions"

// Broker implements [broker.Broker] on a NATS connection that the caller owns.
type Broker struct {
	conn   *nats.Conn
	loss   *loss
	js     jetstream.JetStream
	config Config

	linesMu sync.Mutex
	lines   map[string]*line // by stream

	ackWait time.Duration // of groups; a field so that tests need not wait
}

var _ broker.Broker = (*Broker)(nil)

// New returns a broker on conn. It does no I/O, and watches the connection until that
// is closed. The connection should be made with MaxReconnects(-1): the default gives up
// for good after two minutes.
func New(conn *nats.Conn, config Config) (*Broker, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return &Broker{conn: conn, loss: watch(conn), js: js, config: config.withDefaults(), lines: make(map[string]*line), ackWait: ackWaitDefault}, nil
}

// Partitions implements [broker.Broker].
func (b *Broker) Partitions() int { return b.config.Partitions }

// Ping implements [broker.Broker]: the server answers and JetStream is enabled.
func (b *Broker) Ping(ctx context.Context) error {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	if _, err := b.js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	return nil
}

// Ensure implements [broker.Broker]. A stream that exists keeps its own limits;
// it must have our subjects and partitions, take atomic batches and refuse rather
// than drop when full.
func (b *Broker) Ensure(ctx context.Context, topics ...events.Topic) error {
	var domains []string
	for _, topic := range topics {
		if err := topic.Validate(); err != nil {
			return err
		}
		if domain := topic.Domain(); !slices.Contains(domains, domain) {
			domains = append(domains, domain)
		}
	}
	for _, domain := range domains {
		if err := b.ensureStream(ctx, domain); err != nil {
			return fmt.Errorf("stream %s: %w", streamName(domain), err)
		}
	}
	return nil
}

func (b *Broker) ensureStream(ctx context.Context, domain string) error {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	// AllowDirect stays off: replicas that lag would answer for the leader, and a
	// message that was acknowledged would seem not to be there.
	_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:               streamName(domain),
		Description:        "Countermand topics of the domain " + domain,
		Subjects:           []string{domain + ".>"},
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxAge:             b.config.MaxAge,
		MaxBytes:           b.config.MaxBytes,
		Replicas:           b.config.Replicas,
		Duplicates:         duplicateWindow,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{partitionsKey: strconv.Itoa(b.config.Partitions)},
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create: %w: %w", broker.ErrUnavailable, err)
	}
	stream, err := b.js.Stream(ctx, streamName(domain))
	if err != nil {
		return fmt.Errorf("look up: %w: %w", broker.ErrUnavailable, err)
	}
	have := stream.CachedInfo().Config
	var errs []error
	if !slices.Contains(have.Subjects, domain+".>") {
		errs = append(errs, fmt.Errorf("it has the subjects %q and needs %q", have.Subjects, domain+".>"))
	}
	if got := have.Metadata[partitionsKey]; got != strconv.Itoa(b.config.Partitions) {
		errs = append(errs, fmt.Errorf("it was made with %q partitions and this process wants %d; "+
			"keys would lose their order: configure the same number", got, b.config.Partitions))
	}
	if !have.AllowAtomicPublish {
		errs = append(errs, errors.New("atomic batches are off; enable them: nats stream edit --allow-batch"))
	}
	if have.Storage != jetstream.FileStorage {
		errs = append(errs, errors.New("it is kept in memory and lost when the server stops; make it anew with file storage"))
	}
	if have.PersistMode == jetstream.AsyncPersistMode {
		errs = append(errs, errors.New("messages are acknowledged before they are written; make it anew with the persist mode default"))
	}
	if have.Retention != jetstream.LimitsPolicy {
		errs = append(errs, fmt.Errorf("its retention policy %q removes messages that were acknowledged or that nobody waits for; make it anew with limits", have.Retention))
	}
	if have.MaxMsgsPerSubject > 0 && !have.DiscardNewPerSubject {
		errs = append(errs, fmt.Errorf("it drops old messages beyond %d of a subject; lift that: nats stream edit --max-msgs-per-subject=-1", have.MaxMsgsPerSubject))
	}
	if have.Discard != jetstream.DiscardNew {
		errs = append(errs, errors.New("a full stream would drop old messages; set discard to new"))
	}
	return errors.Join(errs...)
}

// Retention implements [broker.Broker]: the age limit of the topic's stream.
func (b *Broker) Retention(ctx context.Context, topic events.Topic) (time.Duration, error) {
	info, err := b.streamInfo(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("retention of %s: %w", topic, err)
	}
	return info.Config.MaxAge, nil
}

// Epoch implements [broker.Broker]: the creation time of the topic's stream.
func (b *Broker) Epoch(ctx context.Context, topic events.Topic) (string, error) {
	info, err := b.streamInfo(ctx, topic)
	if err != nil {
		return "", fmt.Errorf("epoch of %s: %w", topic, err)
	}
	return info.Created.UTC().Format(time.RFC3339Nano), nil
}

// streamInfo asks the server for the topic's stream.
func (b *Broker) streamInfo(ctx context.Context, topic events.Topic) (*jetstream.StreamInfo, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	stream, err := b.js.Stream(ctx, streamName(topic.Domain()))
	if err != nil {
		return nil, classify(err)
	}
	return stream.CachedInfo(), nil
}

// classify gives an error of a request its meaning for callers of other packages.
func classify(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %w", broker.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
}

// Lookup implements [broker.Broker]. Offsets are stream sequences.
func (b *Broker) Lookup(ctx context.Context, topic events.Topic, partition int, offset uint64) (broker.Delivery, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	stream, err := b.js.Stream(ctx, streamName(topic.Domain()))
	if err != nil {
		return broker.Delivery{}, fmt.Errorf("look up %s at %d: %w", topic, offset, classify(err))
	}
	raw, err := stream.GetMsg(ctx, max(offset, 1))
	if err != nil {
		return broker.Delivery{}, fmt.Errorf("look up %s at %d: %w", topic, offset, classify(err))
	}
	if offset == 0 || raw.Subject != subject(topic, partition) { // the stream holds other topics as well
		return broker.Delivery{}, fmt.Errorf("look up %s at %d: %w in partition %d", topic, offset, broker.ErrNotFound, partition)
	}
	return delivery(topic, raw.Subject, raw.Sequence, raw.Time, raw.Header, raw.Data), nil
}

func (b *Broker) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.config.Timeout)
}

func streamName(domain string) string { return "countermand_" + domain }

func subject(topic events.Topic, partition int) string {
	return string(topic) + "." + strconv.Itoa(partition)
}

// delivery decodes a stored message. It never fails: what is no CloudEvent is
// delivered as malformed, because dropping it would lose it and refusing it
// would stop the partition.
func delivery(topic events.Topic, subject string, offset uint64, at time.Time, header nats.Header, data []byte) broker.Delivery {
	d := broker.Delivery{Topic: topic, Offset: offset, StoredAt: at}
	if dot := strings.LastIndexByte(subject, '.'); dot >= 0 {
		d.Partition, _ = strconv.Atoi(subject[dot+1:])
	}
	decoder := events.NATS.Decoder()
	for name, values := range header {
		for _, value := range values {
			decoder.Header(name, value)
		}
	}
	event, err := decoder.Event(data)
	if err != nil {
		d.Malformed = err
		d.Event = events.Event{ID: fmt.Sprintf("malformed-%s-%d", topic, offset), Data: data}
		return d
	}
	d.Event = event
	return d
}
