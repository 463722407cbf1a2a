package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/filter"
)

// Errors of followers.
var (
	// ErrPosition means that a text is no position of this topic.
	ErrPosition = errors.New("not a position of this topic")
	// ErrGone means that events after the position may have been deleted, or that the
	// topic was made anew. Another start must be chosen.
	ErrGone = errors.New("events after the position may have been deleted")
	// ErrOverrun means that the follower was slower than the events came, by more than
	// is kept for it. It can go on from its position.
	ErrOverrun = errors.New("the follower is too slow")
	// ErrClosed means that the hub was closed. The follower can go on from its position
	// elsewhere.
	ErrClosed = errors.New("the hub is closed")
)

// Source is what a hub needs of a broker. Every [broker.Broker] has it.
type Source interface {
	Partitions() int
	Sequenced() bool
	Epoch(ctx context.Context, topic events.Topic) (string, error)
	Bounds(ctx context.Context, topic events.Topic) (oldest, newest map[int]broker.Start, err error)
	Since(ctx context.Context, topic events.Topic, at time.Time) (map[int]broker.Start, error)
	Backlog(ctx context.Context, topic events.Topic, from map[int]broker.Start) (uint64, error)
	Read(ctx context.Context, topic events.Topic, from map[int]broker.Start) (broker.Reader, error)
}

// Config of a hub. The zero value of every field but Secret is its default.
type Config struct {
	// Secret signs positions: processes with the same secret understand each other's.
	Secret []byte
	// KeptMax and KeptBytesMax bound what is kept of a topic for followers at its tip:
	// 16,384 events and 32 MiB. A follower that lags further is overrun.
	KeptMax      int
	KeptBytesMax int
	// CatchUpMax is how many followers may read by themselves at once; others wait: 64.
	CatchUpMax int
	// Linger is for how long a topic is read after its last follower has left; 1 min.
	Linger time.Duration
	// Rest is the pause after followers were woken, in which events gather; 5 ms.
	Rest time.Duration
	// CheckInterval is how often a topic's bounds are looked at, so that positions of
	// idle followers do not grow old, and deleted events are found out; 15 s.
	CheckInterval time.Duration
	// Logger takes what an operator must know; nil means slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	byDefault(&c.KeptMax, 16384)
	byDefault(&c.KeptBytesMax, 32<<20)
	byDefault(&c.CatchUpMax, 64)
	byDefault(&c.Linger, time.Minute)
	byDefault(&c.Rest, 5*time.Millisecond)
	byDefault(&c.CheckInterval, 15*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func byDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Hub gives events to followers. Make it with [New] and close it in the end. It is
// safe for concurrent use.
type Hub struct {
	source   Source
	config   Config
	width    int // of positions
	catching chan struct{}

	mu     sync.Mutex
	feeds  map[events.Topic]*feed
	closed bool
	tasks  sync.WaitGroup
}

// New returns a hub on a broker. It does no I/O.
func New(source Source, config Config) *Hub {
	h := &Hub{source: source, config: config.withDefaults(), width: source.Partitions(), feeds: make(map[events.Topic]*feed)}
	if source.Sequenced() {
		h.width = 1
	}
	h.catching = make(chan struct{}, h.config.CatchUpMax)
	return h
}

// Close ends all followers with ErrClosed and waits until nothing is read any more.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for topic, f := range h.feeds {
		delete(h.feeds, topic)
		f.end(ErrClosed)
	}
	h.mu.Unlock()
	h.tasks.Wait()
}

// Start says where a follower begins. The zero value is now.
type Start struct {
	// After is a position; it excludes the others.
	After string
	// Earliest is the oldest event that is kept.
	Earliest bool
	// Since is the first event stored at or after a time.
	Since time.Time
}

// Follow begins to follow a topic: the events for which the filter holds. It fails
// with ErrPosition, ErrGone, ErrClosed, or what the broker fails with. Close the
// follower.
func (h *Hub) Follow(ctx context.Context, topic events.Topic, start Start, wanted *filter.Filter) (*Follower, error) {
	feed, err := h.feed(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", topic, err)
	}
	f := &Follower{hub: h, feed: feed, filter: wanted, wake: make(chan struct{}, 1)}
	if err := f.begin(ctx, start); err != nil {
		f.Close()
		return nil, fmt.Errorf("follow %s: %w", topic, err)
	}
	return f, nil
}

// feed returns the feed of a topic, kept alive for the caller, who leaves it.
func (h *Hub) feed(ctx context.Context, topic events.Topic) (*feed, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, ErrClosed
	}
	f := h.feeds[topic]
	if f == nil {
		f = newFeed(h, topic)
		h.feeds[topic] = f
		h.tasks.Go(f.run)
	}
	f.enter()
	h.mu.Unlock()
	select {
	case <-f.ready:
	case <-ctx.Done():
		f.leave()
		return nil, ctx.Err()
	}
	if f.opening != nil {
		f.leave()
		return nil, f.opening
	}
	return f, nil
}

// forget takes a feed that has ended out of the hub.
func (h *Hub) forget(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.feeds[f.topic] == f {
		delete(h.feeds, f.topic)
	}
}

// retire ends a feed that nobody has used for a while.
func (h *Hub) retire(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.idle(h.config.Linger) {
		if h.feeds[f.topic] == f {
			delete(h.feeds, f.topic)
		}
		f.end(ErrClosed) // which nobody sees: users enter under the same lock
	}
}

// position makes a position of where reading would begin.
func (h *Hub) position(from map[int]broker.Start) position { return positionOf(from, h.width) }
