package consumer

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/share"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of consumers, for the schema of the handlers.
func Migrations() fs.FS { return migrations }

// Processor handles batches. Process runs the batch in one transaction of its
// own that includes [Batch.QueuePositions]; it may be called by several
// goroutines, each with its own sources. An error means that the transaction
// did not commit, or may not have.
type Processor interface {
	Process(ctx context.Context, batch *Batch) error
}

// FeedConfig of a [Feed]. Name and Topics are required; the zero value of every
// other field is its default.
type FeedConfig struct {
	// Name of the consumer: it owns the positions, so renaming begins anew.
	Name string
	// Topics to read. A process that owns a partition owns it in all topics.
	Topics []events.Topic
	// Workers is how many batches may be in flight: 1 by default. More workers
	// commit more, smaller transactions.
	Workers int
	// BatchMax is the most deliveries of one batch: 64 by default.
	BatchMax int
	// RestMax bounds how long a worker rests after a batch of several deliveries,
	// unless enough wait for the next: 10 ms by default, less than 0 for not at all.
	// It rests the longer, the busier the machine is and the more the batch held, and
	// saves commits.
	RestMax time.Duration
	// BackoffMin and BackoffMax bound the rest before a failed delivery is tried
	// again: 100 ms doubling to 30 s by default.
	BackoffMin, BackoffMax time.Duration
	// Balance is how often partitions are shared out anew: every second by default.
	Balance time.Duration
	// ParkKeys has later messages of a partition key wait behind a dead letter of it:
	// they are set aside untried, and are handled in order once it was redriven or
	// discarded. Keep it off for commands of sagas: their key is the saga, whose
	// compensation would wait as well.
	ParkKeys bool
	// Look is how often the feed looks how far it is behind: every 15 s by default.
	// When nothing was delivered for two looks although messages wait, its readers are
	// made anew.
	Look time.Duration
	// ProcessTimeout bounds one batch: 30 s by default.
	ProcessTimeout time.Duration
	Logger         *slog.Logger
	Metrics        prometheus.Registerer // nil: metrics are kept but not registered
}

func (c FeedConfig) withDefaults() FeedConfig {
	if c.Workers == 0 {
		c.Workers = 1
	}
	if c.BatchMax == 0 {
		c.BatchMax = 64
	}
	if c.RestMax == 0 {
		c.RestMax = 10 * time.Millisecond
	}
	if c.BackoffMin == 0 {
		c.BackoffMin = 100 * time.Millisecond
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = 30 * time.Second
	}
	if c.Balance == 0 {
		c.Balance = time.Second
	}
	if c.Look == 0 {
		c.Look = 15 * time.Second
	}
	if c.ProcessTimeout == 0 {
		c.ProcessTimeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// backoff returns how long a delivery that failed rests, by how often it has.
func (c FeedConfig) backoff(rests int) time.Duration {
	return min(c.BackoffMax, c.BackoffMin<<min(rests-1, 16))
}

// Feed reads topics for one consumer and hands batches to its processor. Run as
// many processes with the same name on one database as you like: they share the
// partitions.
type Feed struct {
	pool      *pgxpool.Pool
	broker    broker.Broker
	processor Processor
	config    FeedConfig
	metrics   feedMetrics
}

// NewFeed returns a feed. It takes one connection of the pool for as long as it
// runs, and its processor one per worker at a time.
func NewFeed(pool *pgxpool.Pool, b broker.Broker, processor Processor, config FeedConfig) (*Feed, error) {
	if config.Name == "" || len(config.Topics) == 0 {
		return nil, errors.New("feed: a name and at least one topic are required")
	}
	config = config.withDefaults()
	f := &Feed{pool: pool, broker: b, processor: processor, config: config, metrics: newFeedMetrics(config.Name)}
	f.metrics.idle(config.Topics) // so that they are there before the first look
	if config.Metrics != nil {
		f.metrics.register(config.Metrics)
	}
	return f, nil
}

// Run feeds the processor until ctx ends; it finishes the batch in hand and
// returns nil then. It survives lost connections and a broker that is away.
func (f *Feed) Run(ctx context.Context) error {
	for {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		f.config.Logger.WarnContext(ctx, "consumer reads again from its stored positions", "consumer", f.config.Name, "error", err)
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// errRebalance ends the workers of a session so that partitions can change hands.
var errRebalance = errors.New("partitions are shared out anew")

// session owns partitions over one connection until it is lost or ctx ends.
func (f *Feed) session(ctx context.Context) error {
	if err := f.broker.Ensure(ctx, f.config.Topics...); err != nil {
		return err
	}
	if err := announce(ctx, f.pool, f.config.Name, f.config.Topics, f.processor); err != nil {
		return err
	}
	if p, ok := f.processor.(interface {
		ready(ctx context.Context, b broker.Broker, topics []events.Topic) error
	}); ok {
		if err := p.ready(ctx, f.broker, f.config.Topics); err != nil {
			return err
		}
	}
	conn, err := share.Connect(ctx, f.pool)
	if err != nil {
		return err
	}
	work := context.WithoutCancel(ctx) // a cancelled query would cost the connection and the locks
	defer func() { _ = conn.Close(work) }()
	division, err := share.Join(work, conn, "consumer/"+f.config.Name, f.broker.Partitions())
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		surplus, err := division.Surplus(work)
		if err != nil {
			return err
		}
		if err := division.Release(work, surplus); err != nil {
			return err
		}
		if _, err := division.Take(work); err != nil {
			return err
		}
		if len(division.Held()) == 0 {
			f.metrics.idle(f.config.Topics)
			select {
			case <-time.After(f.config.Balance):
			case <-ctx.Done():
			}
			continue
		}
		if err := f.feed(ctx, division); err != nil && !errors.Is(err, errRebalance) {
			return err
		}
	}
	return nil
}

// feed runs workers over the partitions held until they have to change.
func (f *Feed) feed(ctx context.Context, division *share.Division) error {
	held := division.Held()
	positions, err := loadPositions(ctx, f.pool, f.broker, f.config.Logger, f.config.Name, f.config.Topics, held)
	if err != nil {
		return err
	}
	group, run := errgroup.WithContext(ctx)
	lookout := &lookout{feed: f, partitions: held}
	for n := range min(f.config.Workers, len(held)) {
		mine := make([]int, 0, len(held))
		for i, partition := range held {
			if i%f.config.Workers == n {
				mine = append(mine, partition)
			}
		}
		w := newWorker(f, mine, positions)
		lookout.workers = append(lookout.workers, &w.vitals)
		group.Go(func() error { return w.run(run) })
	}
	group.Go(func() error { return f.watch(run, division) })
	group.Go(func() error { return lookout.run(run) })
	f.metrics.watch.Store(lookout)
	return group.Wait()
}

// watch returns errRebalance when this process holds too many or too few
// partitions. Free ones are taken here, and read from in the next round.
func (f *Feed) watch(ctx context.Context, division *share.Division) error {
	work := context.WithoutCancel(ctx)
	ticker := time.NewTicker(f.config.Balance)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		taken, err := division.Take(work)
		if err != nil {
			return err
		}
		surplus, err := division.Surplus(work)
		if err != nil {
			return err
		}
		if taken || len(surplus) > 0 {
			f.config.Logger.InfoContext(ctx, "consumer partitions change", "consumer", f.config.Name,
				"held", len(division.Held()), "surplus", len(surplus))
			return errRebalance
		}
	}
}

// redriver returns what handles dead letters of those partitions again.
func (f *Feed) redriver(partitions []int, attempt func(context.Context, *Batch) error) *redriver {
	r := &redriver{
		pool: f.pool, name: f.config.Name, attempt: attempt, backoff: f.config.backoff, redriven: f.metrics.redriven, log: f.config.Logger,
		stalls: make(map[int64]stalledLetter), partitions: make([]int32, 0, len(partitions)),
	}
	for _, topic := range f.config.Topics {
		r.topics = append(r.topics, string(topic))
	}
	for _, partition := range partitions {
		r.partitions = append(r.partitions, int32(partition))
	}
	return r
}

// readers opens a reader per topic on those partitions.
func (f *Feed) readers(ctx context.Context, partitions []int, positions map[Source]uint64) ([]broker.Reader, error) {
	readers := make([]broker.Reader, 0, len(f.config.Topics))
	for _, topic := range slices.Sorted(slices.Values(f.config.Topics)) {
		from := make(map[int]broker.Start, len(partitions))
		for _, partition := range partitions {
			from[partition] = broker.Start{After: positions[Source{topic, partition}]}
		}
		reader, err := f.broker.Read(ctx, topic, from)
		if err != nil {
			for _, open := range readers {
				open.Close()
			}
			return nil, fmt.Errorf("consumer %s: %w", f.config.Name, err)
		}
		readers = append(readers, reader)
	}
	return readers, nil
}
