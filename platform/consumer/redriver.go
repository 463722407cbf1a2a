package consumer

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
)

// RedriverConfig of a [Redriver]. Name and Topics are required; the zero value of
// every other field is its default.
type RedriverConfig struct {
	// Name of the consumer, as its dead letters have it.
	Name   string
	Topics []events.Topic
	// Every is how often it looks for letters: every second by default.
	Every  time.Duration
	Logger *slog.Logger
}

// Redriver hands dead letters that operators redrive to a processor, for a consumer
// that is fed by something else than a [Feed], such as a watermill router, and that
// sets aside with [QueueDeadLetter]. A Feed does this by itself.
type Redriver struct {
	letters   *redriver
	processor Processor
	config    RedriverConfig
}

// NewRedriver returns a redriver. processor gets batches of one delivery each, in a
// transaction of its own with what [Batch.QueuePositions] queues. Several processes
// may run one: a letter is handled once, though it may be begun twice.
func NewRedriver(pool *pgxpool.Pool, processor Processor, config RedriverConfig) *Redriver {
	if config.Every == 0 {
		config.Every = time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	metrics := newFeedMetrics(config.Name)
	feed := &Feed{
		pool: pool, processor: processor, metrics: metrics,
		config: FeedConfig{Name: config.Name, Topics: config.Topics, Logger: config.Logger}.withDefaults(),
	}
	w := &worker{feed: feed}
	r := feed.redriver(nil, w.attempt)
	r.partitions = nil // all of them
	return &Redriver{r, processor, config}
}

// Run redrives until ctx ends, and returns nil then. It survives a database that is
// away.
func (r *Redriver) Run(ctx context.Context) error {
	announced := false
	for ctx.Err() == nil {
		var more bool
		err := error(nil)
		if !announced {
			err = announce(ctx, r.letters.pool, r.config.Name, r.config.Topics, r.processor)
			announced = err == nil
		}
		if err == nil {
			more, err = r.letters.pass(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.config.Logger.WarnContext(ctx, "dead letters could not be redriven", "consumer", r.config.Name, "error", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-time.After(r.config.Every):
		case <-ctx.Done():
		}
	}
	return nil
}
