package broker

import (
	"context"
	"errors"
	"time"

	"github.com/countermand/countermand/events"
)

// Limits that hold on every broker.
const (
	// MessageBytesMax bounds the data of one message; the attributes have their
	// own limit, [events.AttributesBytesMax].
	MessageBytesMax = 1 << 20
	// BatchMessagesMax is the most messages one PublishBatch takes.
	BatchMessagesMax = 1000
)

// Errors that implementations wrap.
var (
	// ErrUnavailable means the broker could not be reached, did not answer, is
	// full, or does not have the topic (yet); whether the message was stored is
	// unknown. Publishing it again with the same PublishID is safe.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrRejected means that no broker will ever take this message: it is too
	// large, or its event or topic is not valid.
	ErrRejected = errors.New("message rejected by the broker")
	// ErrNotFound means that there is no message at that position, or that the
	// topic does not exist or is not the one it was.
	ErrNotFound = errors.New("not found on the broker")
)

// Message is one event on its way to a topic.
type Message struct {
	Topic events.Topic
	// PublishID lets the broker drop a second copy within its window of about two
	// minutes. A command that is issued again on purpose needs a fresh one, or
	// the window would swallow it. Empty means that copies are not dropped. On
	// every broker, publishing again what this publisher does not know to be stored
	// leaves one copy; which others are found is the implementation's to say.
	PublishID string
	Event     events.Event
}

// Receipt tells what became of one message of a batch.
type Receipt struct {
	// Err is nil when the message is stored durably. It wraps ErrUnavailable or
	// ErrRejected otherwise.
	Err error
	// Duplicate says that the broker already held a message with that PublishID;
	// Offset is then the position of the first one.
	Duplicate bool
	Partition int
	Offset    uint64
}

// Publisher stores events. Implementations are safe for concurrent use.
type Publisher interface {
	// PublishBatch stores messages durably and returns one receipt for each, in
	// their order. Within a partition the stored ones are a prefix: no message is
	// stored after one that is not, so publishing the rest again keeps the order of
	// each key. At most BatchMessagesMax messages; ctx bounds the wait.
	PublishBatch(ctx context.Context, messages []Message) []Receipt
}

// AtomicPublisher is a publisher that can store messages as one unit. A broker
// whose protocol has no such thing is none.
type AtomicPublisher interface {
	Publisher
	// PublishAtomically is PublishBatch, and stores all messages or none when they go
	// to topics of one domain and the broker holds none of their publish ids. When it
	// holds one, those it does not hold are stored with the promises of PublishBatch.
	PublishAtomically(ctx context.Context, messages []Message) []Receipt
}

// SharingPublisher is a publisher that puts single messages of many callers into
// batches by itself, which spares a [Committer] the trouble.
type SharingPublisher interface {
	Publisher
	// PublishShared is PublishBatch for one message. Messages of different callers are
	// independent of each other.
	PublishShared(ctx context.Context, message Message) Receipt
}

// Delivery is one message as a reader gets it.
type Delivery struct {
	Topic     events.Topic
	Partition int
	Offset    uint64    // grows within a partition, with gaps
	StoredAt  time.Time // when it was stored, by the clock of the broker or, on Kafka, of its publisher
	Event     events.Event
	// Malformed is set when the message is no CloudEvent. Event then holds only
	// what could be read, with the raw payload as Data.
	Malformed error
}

// Start says where a partition reader begins: after an offset it has handled.
// The zero value begins with the oldest message that the broker still has.
type Start struct {
	After uint64
}

// Reader delivers some partitions of one topic, each in order.
type Reader interface {
	// Next returns at least one and at most limit deliveries: what has arrived,
	// without waiting to fill the batch. It blocks until something arrives or ctx
	// ends. A broker that is away is waited for, not reported. It fails with
	// ErrNotFound when the topic was removed or made anew, for then the positions
	// mean nothing, and with ErrUnavailable when the connection was closed for
	// good. Not safe for concurrent use.
	Next(ctx context.Context, limit int) ([]Delivery, error)
	// Close ends the reader. Close it once, after the last Next has returned.
	Close()
}

// GroupDelivery is a delivery whose progress the broker keeps for a group.
type GroupDelivery struct {
	Delivery
	Attempt int // 1 for the first delivery that the broker, or on Kafka this member, knows of
	// Ack tells the broker that the message is handled. After an error it may be
	// delivered again.
	Ack func(ctx context.Context) error
	// Retry has the broker deliver the message again after the delay; later
	// messages of the partition wait for it.
	Retry func(delay time.Duration) error
}

// Group delivers a topic to the members of a group: each message to one member,
// one unacknowledged message per partition at a time, so order holds through
// redelivery and a change of members. A message is its member's until Ack, Retry
// or Close, however long that takes; one of the three must come. Kafka bounds that
// while members come or go: after the grace the message goes to another member,
// and an Ack that comes later fails and moves nothing.
type Group interface {
	// Next blocks for the next delivery or the end of ctx. It fails with
	// ErrUnavailable when this member can get no more: close it and subscribe again.
	Next(ctx context.Context) (GroupDelivery, error)
	// Close leaves the group; unacknowledged messages go to another member.
	Close()
}

// Broker is everything the platform asks of a broker. Implementations are safe
// for concurrent use.
type Broker interface {
	Publisher
	// Partitions returns how many partitions every topic has.
	Partitions() int
	// Ensure creates the topics that do not exist and checks the ones that do.
	Ensure(ctx context.Context, topics ...events.Topic) error
	// Retention returns for how long messages of the topic are kept at most; 0 means
	// for ever.
	Retention(ctx context.Context, topic events.Topic) (time.Duration, error)
	// Epoch identifies the incarnation of a topic's storage. When it changes the
	// topic was made anew and old offsets mean nothing. ErrNotFound when there is
	// no such topic.
	Epoch(ctx context.Context, topic events.Topic) (string, error)
	// Read opens a reader on the partitions that are keys of from.
	Read(ctx context.Context, topic events.Topic, from map[int]Start) (Reader, error)
	// Tail opens a reader on all partitions that delivers only what is published
	// from now on.
	Tail(ctx context.Context, topic events.Topic) (Reader, error)
	// Since returns where to begin for the messages that were stored at or after a
	// time: a replay reads from there.
	Since(ctx context.Context, topic events.Topic, at time.Time) (map[int]Start, error)
	// Bounds returns for each partition the position before the oldest message that is
	// kept, and that of the newest. Whoever goes on from before the oldest may miss what
	// was deleted.
	Bounds(ctx context.Context, topic events.Topic) (oldest, newest map[int]Start, err error)
	// Sequenced reports whether offsets grow through all partitions of a topic together.
	// A reader whose partitions begin at one position then delivers in their order, so
	// that one offset tells how far it is in all of them.
	Sequenced() bool
	// Lookup returns the one message at that offset; ErrNotFound when it is gone.
	Lookup(ctx context.Context, topic events.Topic, partition int, offset uint64) (Delivery, error)
	// Subscribe joins the named group on a topic.
	Subscribe(ctx context.Context, topic events.Topic, group string) (Group, error)
	// Backlog returns how many messages lie after those positions.
	Backlog(ctx context.Context, topic events.Topic, from map[int]Start) (uint64, error)
	// Ping reports whether the broker answers.
	Ping(ctx context.Context) error
}
