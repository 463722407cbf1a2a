package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/pace"
	"github.com/countermand/countermand/platform/postgres"
)

// worker turns what arrives from some partitions into batches, one at a time.
// A batch is what queued while the last one was committed, and while the worker
// rested after it.
type worker struct {
	feed       *Feed
	partitions []int
	positions  map[Source]uint64            // stored, by this worker's own commits
	pending    map[Source][]broker.Delivery // arrived, not handled
	order      []Source                     // sources with pending deliveries, longest waiting first
	stalls     map[Source]stall
	missed     map[Source]bool // sources with deliveries that were let go, to be read again
	pace       pace.Pace
	vitals     vitals
	letters    *redriver
	lookAt     time.Time // when to look for dead letters that are due
}

// restFactor was found with the benchmark checkout on two cores: compared with no
// rest, batches were three times as large, and twice as large at half load. The rest
// is a whole one after a quarter of a full batch: after any batch of several, it made
// sagas wait at a quarter of their highest rate, when there was time enough for each.
const restFactor = 3

// stall is a source whose first pending delivery has failed.
type stall struct {
	attempt
	rests int // in a row, which set the next one
	until time.Time
}

func newWorker(f *Feed, partitions []int, positions map[Source]uint64) *worker {
	w := &worker{
		feed: f, partitions: partitions, positions: make(map[Source]uint64),
		stalls: make(map[Source]stall),
		pace:   pace.Pace{Factor: restFactor, Max: f.config.RestMax, Many: f.config.BatchMax / 4, Full: f.config.BatchMax / 2},
	}
	for source, offset := range positions {
		if slices.Contains(partitions, source.Partition) {
			w.positions[source] = offset
		}
	}
	w.letters = f.redriver(partitions, w.attempt)
	return w
}

// run reads and processes until ctx ends (nil) or the positions it works from
// can no longer be trusted (an error).
func (w *worker) run(ctx context.Context) error {
	for {
		if err := w.read(ctx); !errors.Is(err, errMissed) {
			return err
		}
	}
}

// errMissed ends the readers so that what was let go can be read again.
var errMissed = errors.New("deliveries were let go")

// read does the same from the positions it has, with readers of its own.
func (w *worker) read(ctx context.Context) error {
	w.pending, w.order, w.missed = make(map[Source][]broker.Delivery), nil, make(map[Source]bool)
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
		// It comes first: before the first batch it must be known which keys are parked.
		if err := w.redrive(ctx); err != nil {
			return err
		}
		if err := w.gather(ctx, arrived); err != nil {
			return err
		}
		w.show()
		batch := w.next(w.feed.config.BatchMax)
		if len(batch.Deliveries) == 0 {
			continue
		}
		began := time.Now()
		if err := w.process(ctx, batch); err != nil {
			return err
		}
		w.show()
		w.pace.Ended(began, len(batch.Deliveries))
		for source := range w.missed {
			if len(w.pending[source]) == 0 {
				return errMissed
			}
		}
	}
}

// redrive looks for dead letters that are due, from time to time.
func (w *worker) redrive(ctx context.Context) error {
	now := time.Now()
	if w.lookAt.After(now) {
		return nil
	}
	more, err := w.letters.pass(ctx)
	if err != nil {
		return err
	}
	w.vitals.parked.Store(int64(len(w.letters.parked)))
	if !more {
		w.lookAt = now.Add(w.feed.config.Balance)
	}
	return nil
}

// gather takes in what has arrived. It blocks while nothing can be done, and
// while it is too early for the next batch.
func (w *worker) gather(ctx context.Context, arrived <-chan []broker.Delivery) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ready, wake := w.ready()
		incoming := arrived
		if ready >= 4*w.feed.config.BatchMax {
			incoming = nil // enough in hand: let the readers, and so the broker, hold the rest
		}
		if ready > 0 {
			rest := w.pace.Rest(ready)
			if rest <= 0 {
				select {
				case deliveries := <-incoming:
					w.add(deliveries)
					continue
				default:
					return nil
				}
			}
			wake = time.Now().Add(rest)
		}
		if wake.IsZero() || w.lookAt.Before(wake) {
			wake = w.lookAt
		}
		select {
		case deliveries := <-incoming:
			w.add(deliveries)
		case <-time.After(time.Until(wake)):
			if !w.lookAt.After(time.Now()) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add takes deliveries in. A source that is stalled keeps only a few: holding its
// reader back would hold the other partitions back, and keeping all would take
// any amount of memory. The rest is read again when the few are handled.
func (w *worker) add(deliveries []broker.Delivery) {
	for i := range deliveries {
		source := sourceOf(&deliveries[i])
		n := len(w.pending[source])
		if _, stalled := w.stalls[source]; stalled && n >= 2*w.feed.config.BatchMax {
			w.missed[source] = true
		}
		if w.missed[source] {
			continue
		}
		if n == 0 {
			w.order = append(w.order, source)
		}
		w.pending[source] = append(w.pending[source], deliveries[i])
	}
}

// ready returns how many deliveries wait for nothing but their turn, and if there
// are none, when the first stall ends.
func (w *worker) ready() (deliveries int, wake time.Time) {
	now := time.Now()
	for _, source := range w.order {
		stall, stalled := w.stalls[source]
		if !stalled || !stall.until.After(now) {
			deliveries += len(w.pending[source])
		} else if wake.IsZero() || stall.until.Before(wake) {
			wake = stall.until
		}
	}
	return deliveries, wake
}

// next builds a batch from the sources that are not stalled, round after round.
func (w *worker) next(limit int) *Batch {
	b := &Batch{
		consumer: w.feed.config.Name, before: w.positions, attempts: make(map[Source]attempt),
		parkKeys: w.feed.config.ParkKeys, parked: w.letters.parked,
	}
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
		return w.failed(ctx, batch, err)
	}
	w.feed.metrics.splits.Inc()
	batch.reset() // what it said of its deliveries was rolled back with them
	for i := range batch.Deliveries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if batch.waits(i) {
			continue
		}
		one := &Batch{
			Deliveries: batch.Deliveries[i : i+1], consumer: batch.consumer, before: w.positions, attempts: batch.attempts,
			parkKeys: batch.parkKeys, parked: w.letters.parked,
		}
		one.reset()
		switch err := w.attempt(ctx, one); {
		case err == nil:
			w.settle(one)
		case lost(err):
			return err
		default:
			if err := w.failed(ctx, one, err); err != nil {
				return err
			}
		}
		if one.waits(0) {
			batch.Fail(i, nil) // those behind it wait
		}
		delete(batch.attempts, sourceOf(&batch.Deliveries[i]))
	}
	return nil
}

// failed takes in that the transaction of a single delivery has failed. Whether
// that is the delivery's doing decides if it counts as an attempt: an outage of
// the database must not make dead letters. An error is one of the latter kind.
func (w *worker) failed(ctx context.Context, one *Batch, err error) error {
	alive, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	if down := w.feed.pool.Ping(alive); down != nil {
		return fmt.Errorf("the database is away: %w", err)
	}
	one.reset()
	one.Fail(0, err)
	one.blameless = contended(err)
	w.settle(one)
	return nil
}

// pingTimeout bounds the question whether the database is there.
const pingTimeout = 5 * time.Second

// contended reports that a transaction had to give way to another one.
func contended(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "55P03") // serialization, deadlock, lock timeout
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
	for key := range batch.fresh {
		w.letters.parked[key] = true
	}
	for _, a := range batch.aside {
		if a.err != nil {
			w.feed.metrics.dead.WithLabelValues(reasonOf(&batch.Deliveries[a.i], a.err)).Inc()
		}
	}
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
		if w.pending[source] = queue[n:]; n == len(queue) {
			delete(w.pending, source) // and the array with the payloads in it
		}
	}
	for source, err := range batch.failed {
		before := w.stalls[source] // of this delivery: what is done has deleted its own
		count, rests := before.count+1, before.rests+1
		if batch.blameless {
			count = before.count
		}
		rest := w.feed.config.backoff(rests)
		w.stalls[source] = stall{attempt{count, err}, rests, time.Now().Add(rest)}
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
