package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
)

// worker turns what arrives from some partitions into batches, one at a time.
// It waits for nothing: a batch is what queued while the last one was committed.
type worker struct {
	feed       *Feed
	partitions []int
	positions  map[Source]uint64            // stored, by this worker's own commits
	pending    map[Source][]broker.Delivery // arrived, not handled
	order      []Source                     // sources with pending deliveries, longest waiting first
	waiting    int                          // deliveries in pending
	stalls     map[Source]stall
}

// stall is a source whose first pending delivery has failed.
type stall struct {
	attempt
	until time.Time
}

func newWorker(f *Feed, partitions []int, positions map[Source]uint64) *worker {
	w := &worker{
		feed: f, partitions: partitions, positions: make(map[Source]uint64),
		pending: make(map[Source][]broker.Delivery), stalls: make(map[Source]stall),
	}
	for source, offset := range positions {
		if slices.Contains(partitions, source.Partition) {
			w.positions[source] = offset
		}
	}
	return w
}

// run reads and processes until ctx ends (nil) or the positions it works from
// can no longer be trusted (an error).
func (w *worker) run(ctx context.Context) error {
	readers, err := w.feed.readers(ctx, w.partitions, w.positions)
	if err != nil {
		return err
	}
	arrived := make(chan []broker.Delivery) // unbuffered: readers keep their own queue
	group, reading := errgroup.WithContext(ctx)
	for _, reader := range readers {
		group.Go(func() error {
			defer reader.Close()
			for {
				batch, err := reader.Next(reading, w.feed.config.BatchMax)
				if err != nil {
					return err
				}
				select {
				case arrived <- batch:
				case <-reading.Done():
					return reading.Err()
				}
			}
		})
	}
	group.Go(func() error { return w.loop(reading, arrived) })
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (w *worker) loop(ctx context.Context, arrived <-chan []broker.Delivery) error {
	for {
		if err := w.gather(ctx, arrived); err != nil {
			return err
		}
		batch := w.next(w.feed.config.BatchMax)
		if len(batch.Deliveries) == 0 {
			continue
		}
		if err := w.process(ctx, batch); err != nil {
			return err
		}
	}
}

// pendingMax is how many batches a worker takes in, at most, while all that it
// has waits for deliveries that failed: what comes may be for other partitions,
// which must not wait as well.
const pendingMax = 64

// gather takes in what has arrived. It blocks only while nothing can be done.
func (w *worker) gather(ctx context.Context, arrived <-chan []broker.Delivery) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ready, wake := w.ready()
		limit := pendingMax * w.feed.config.BatchMax
		if ready {
			limit = 4 * w.feed.config.BatchMax
		}
		incoming := arrived
		if w.waiting >= limit {
			incoming = nil // enough in hand: let the readers, and so the broker, hold the rest
		}
		if ready {
			select {
			case deliveries := <-incoming:
				w.add(deliveries)
				continue
			default:
				return nil
			}
		}
		var timer <-chan time.Time // nil: no source is stalled
		if !wake.IsZero() {
			timer = time.After(time.Until(wake))
		}
		select {
		case deliveries := <-incoming:
			w.add(deliveries)
		case <-timer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *worker) add(deliveries []broker.Delivery) {
	for i := range deliveries {
		source := sourceOf(&deliveries[i])
		if len(w.pending[source]) == 0 {
			w.order = append(w.order, source)
		}
		w.pending[source] = append(w.pending[source], deliveries[i])
	}
	w.waiting += len(deliveries)
}

// ready reports whether some pending source is not stalled, and if none is, when
// the first stall ends.
func (w *worker) ready() (ready bool, wake time.Time) {
	now := time.Now()
	for _, source := range w.order {
		stall, stalled := w.stalls[source]
		if !stalled || !stall.until.After(now) {
			return true, time.Time{}
		}
		if wake.IsZero() || stall.until.Before(wake) {
			wake = stall.until
		}
	}
	return false, wake
}

// next builds a batch from the sources that are not stalled, round after round.
func (w *worker) next(limit int) *Batch {
	b := &Batch{consumer: w.feed.config.Name, before: w.positions, attempts: make(map[Source]attempt)}
	b.reset()
	now := time.Now()
	for _, source := range w.order {
		take := w.pending[source]
		if stall, stalled := w.stalls[source]; stalled {
			if stall.until.After(now) {
				continue
			}
			b.attempts[source] = stall.attempt
			take = take[:1] // a delivery that failed goes alone, so that it fails alone
		}
		take = take[:min(len(take), limit-len(b.Deliveries))]
		b.Deliveries = append(b.Deliveries, take...)
		if len(b.Deliveries) == limit {
			break
		}
	}
	return b
}

// process hands the batch to the processor and takes in what became of it. When
// the transaction of several deliveries fails, each is tried in one of its own,
// to find the one that fails.
func (w *worker) process(ctx context.Context, batch *Batch) error {
	err := w.attempt(ctx, batch)
	if err == nil {
		w.settle(batch)
		return nil
	}
	if lost(err) {
		return err
	}
	if len(batch.Deliveries) == 1 {
		batch.reset()
		batch.Fail(0, err)
		w.settle(batch)
		return nil
	}
	w.feed.metrics.splits.Inc()
	batch.reset() // what it said of its deliveries was rolled back with them
	for i := range batch.Deliveries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if batch.Skip(i) {
			continue
		}
		one := &Batch{Deliveries: batch.Deliveries[i : i+1], consumer: batch.consumer, before: w.positions, attempts: batch.attempts}
		one.reset()
		err := w.attempt(ctx, one)
		if err != nil {
			if lost(err) {
				return err
			}
			one.reset()
			one.Fail(0, err)
		}
		if _, failed := one.failed[sourceOf(&batch.Deliveries[i])]; failed {
			batch.Fail(i, err)
		}
		w.settle(one)
		delete(batch.attempts, sourceOf(&batch.Deliveries[i]))
	}
	return nil
}

// attempt runs the processor. The batch in hand is finished even when the worker
// is told to stop; only its own timeout ends it.
func (w *worker) attempt(ctx context.Context, batch *Batch) (err error) {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.feed.config.ProcessTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	begin := time.Now()
	err = w.feed.processor.Process(work, batch)
	w.feed.metrics.batches.Observe(float64(len(batch.Deliveries)))
	w.feed.metrics.seconds.Observe(time.Since(begin).Seconds())
	return err
}

// lost reports an error after which the stored positions may differ from what
// this worker believes: somebody else moved them, or a commit may have happened.
// A batch that ran out of time is not among them: it counts as an attempt, or a
// handler that hangs would be called for ever.
func lost(err error) bool {
	return IsFenced(err) || errors.Is(err, postgres.ErrCommitUnknown)
}

// settle moves positions and pending deliveries on by what the batch has done.
func (w *worker) settle(batch *Batch) {
	for source, offset := range batch.done {
		w.positions[source] = offset
		delete(w.stalls, source)
		queue := w.pending[source]
		n := 0
		for n < len(queue) && queue[n].Offset <= offset {
			n++
		}
		w.feed.metrics.handled.Add(float64(n))
		w.feed.metrics.delay.Observe(time.Since(queue[0].StoredAt).Seconds())
		w.waiting -= n
		w.pending[source] = queue[n:]
	}
	for source, err := range batch.failed {
		count := w.stalls[source].count + 1
		if _, moved := batch.done[source]; moved {
			count = 1
		}
		rest := min(w.feed.config.BackoffMax, w.feed.config.BackoffMin<<min(count-1, 16))
		w.stalls[source] = stall{attempt{count, err}, time.Now().Add(rest)}
		w.feed.metrics.failures.Inc()
		first := w.pending[source][0]
		w.feed.config.Logger.Warn("delivery failed and is tried again", "consumer", w.feed.config.Name, "topic", source.Topic,
			"partition", source.Partition, "offset", first.Offset, "event_id", first.Event.ID, "event_type", first.Event.Type,
			"saga_id", first.Event.CorrelationID, "attempt", count, "retry_in", rest, "error", err)
	}
	w.order = slices.DeleteFunc(w.order, func(s Source) bool { return len(w.pending[s]) == 0 })
	if len(w.order) > 1 { // the source that was served first waits longest next time
		w.order = append(w.order[1:], w.order[0])
	}
}
