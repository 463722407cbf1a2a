package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// vitals are what a worker shows of itself.
type vitals struct {
	waiting atomic.Int64 // deliveries that have arrived and are not handled
	oldest  atomic.Int64 // when the first of them was stored, in Unix nanoseconds; 0: none waits
	parked  atomic.Int64 // keys held by a dead letter, when it last looked
}

// show brings the vitals up to date.
func (w *worker) show() {
	waiting, oldest := 0, time.Time{}
	for _, source := range w.order {
		queue := w.pending[source]
		waiting += len(queue)
		if at := queue[0].StoredAt; oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	w.vitals.waiting.Store(int64(waiting))
	if waiting == 0 {
		w.vitals.oldest.Store(0)
	} else {
		w.vitals.oldest.Store(oldest.UnixNano())
	}
}

// errStuck ends a feed whose readers deliver nothing although there is something.
var errStuck = errors.New("nothing was delivered although messages wait at the broker")

// strikesMax is how many looks in a row must find the feed stuck: a message may
// have been stored just before one of them.
const strikesMax = 2

// lookout measures how far a feed is behind, and watches over its readers. They
// mend what they notice by themselves; it is for what they do not notice.
type lookout struct {
	feed       *Feed
	partitions []int
	workers    []*vitals
	before     map[Source]uint64
	strikes    int
}

func (l *lookout) run(ctx context.Context) error {
	ticker := time.NewTicker(l.feed.config.Look)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if err := l.look(ctx); err != nil {
			return err
		}
	}
}

// look returns errStuck when the feed must be built anew.
func (l *lookout) look(ctx context.Context) error {
	handled, err := l.positions(ctx)
	if err != nil {
		l.strikes = 0 // others say that the database is away
		return nil    //nolint:nilerr // as above
	}
	var behind uint64
	for topic, from := range handled {
		n, err := l.feed.broker.Backlog(ctx, topic, from)
		if err != nil {
			l.strikes = 0
			return nil //nolint:nilerr // the broker is away
		}
		l.feed.metrics.lag.WithLabelValues(string(topic)).Set(float64(n))
		behind += n
	}
	now := make(map[Source]uint64)
	for topic, from := range handled {
		for partition, start := range from {
			now[Source{topic, partition}] = start.After
		}
	}
	moved := !maps.Equal(now, l.before)
	l.before = now
	if behind == 0 || moved || l.busy() {
		l.strikes = 0
		return nil
	}
	if l.strikes++; l.strikes < strikesMax {
		return nil
	}
	l.feed.metrics.rebuilt.Inc()
	return fmt.Errorf("%w: %d of them", errStuck, behind)
}

// busy reports that a worker has deliveries in hand, so that it is not its readers
// which hold it up.
func (l *lookout) busy() bool {
	for _, w := range l.workers {
		if w.waiting.Load() > 0 {
			return true
		}
	}
	return false
}

// positions returns what is stored, by topic.
func (l *lookout) positions(ctx context.Context) (map[events.Topic]map[int]broker.Start, error) {
	rows, err := l.feed.pool.Query(ctx, `
		select topic, partition, handled from consumer_position
		where consumer = $1 and topic = any($2) and partition = any($3)`,
		l.feed.config.Name, l.feed.config.Topics, l.partitions)
	if err != nil {
		return nil, err
	}
	var (
		topic     events.Topic
		partition int
		handled   int64
	)
	all := make(map[events.Topic]map[int]broker.Start)
	_, err = pgx.ForEachRow(rows, []any{&topic, &partition, &handled}, func() error {
		if all[topic] == nil {
			all[topic] = make(map[int]broker.Start)
		}
		all[topic][partition] = broker.Start{After: uint64(handled)}
		return nil
	})
	return all, err
}

// oldest returns the age of the oldest delivery in hand, in seconds.
func (l *lookout) oldest() float64 {
	var first int64
	for _, w := range l.workers {
		if at := w.oldest.Load(); at > 0 && (first == 0 || at < first) {
			first = at
		}
	}
	if first == 0 {
		return 0
	}
	return time.Since(time.Unix(0, first)).Seconds()
}

// parked returns how many keys are held by a dead letter.
func (l *lookout) parked() float64 {
	var sum int64
	for _, w := range l.workers {
		sum += w.parked.Load()
	}
	return float64(sum)
}
