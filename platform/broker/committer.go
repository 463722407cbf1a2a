package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrOverloaded is returned by a [Committer] whose queue is full: the broker is
// slower than what is asked of it. Try again later; nothing was published.
var ErrOverloaded = errors.New("publish queue is full")

// Committer publishes single messages of many callers in shared batches: while
// one batch waits for its durable ack, what arrives forms the next. There is no
// linger, so an idle committer adds no delay, and a busy one pays one fsync for
// hundreds of messages. A [SharingPublisher] makes the batches by itself; the committer
// bounds how much waits for it. Make it with [NewCommitter]; it is safe for concurrent
// use.
type Committer struct {
	publisher Publisher
	shared    *sharing // nil where the committer makes the batches
	queue     chan *commit
	together  chan struct{} // holds a token for each PublishTogether under way
	done      chan struct{}
	stop      context.CancelFunc
	stopOnce  sync.Once
}

type commit struct {
	message Message
	receipt chan Receipt // capacity 1: the loop never waits for a caller that left
}

// NewCommitter starts a committer whose queue holds at most queueMax messages;
// 0 means 10,000. Close it to end its goroutine.
func NewCommitter(publisher Publisher, queueMax int) *Committer {
	if queueMax <= 0 {
		queueMax = 10_000
	}
	ctx, stop := context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	c := &Committer{
		publisher: publisher, queue: make(chan *commit, queueMax), together: make(chan struct{}, togetherMax),
		done: make(chan struct{}), stop: stop,
	}
	if publisher, ok := publisher.(SharingPublisher); ok {
		c.shared = &sharing{publisher: publisher, max: queueMax}
	}
	go c.run(ctx)
	return c
}

// Publish stores one message durably and returns its receipt. It returns
// [ErrOverloaded] at once when the queue is full, and ctx's error when ctx ends
// first: the message may then be stored nevertheless.
func (c *Committer) Publish(ctx context.Context, message Message) (Receipt, error) {
	if c.shared != nil {
		return c.shared.publish(ctx, message)
	}
	one := &commit{message: message, receipt: make(chan Receipt, 1)}
	select {
	case <-c.done:
		return Receipt{}, errClosed
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	default:
	}
	select {
	case c.queue <- one:
	default:
		return Receipt{}, ErrOverloaded
	}
	select {
	case receipt := <-one.receipt:
		return receipt, receipt.Err
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	case <-c.done:
		select { // the loop answers what it took before it ends
		case receipt := <-one.receipt:
			return receipt, receipt.Err
		default:
			return Receipt{}, errClosed
		}
	}
}

// togetherMax is how many batches PublishTogether has under way at most.
const togetherMax = 64

// PublishTogether stores messages durably, as one unit where the publisher is an
// [AtomicPublisher], and returns one receipt for each. It shares no batch with other
// callers. When too many such batches are under way it fails all of them with
// [ErrOverloaded] at once: nothing was published.
func (c *Committer) PublishTogether(ctx context.Context, messages []Message) []Receipt {
	failed := func(err error) []Receipt {
		receipts := make([]Receipt, len(messages))
		for i := range receipts {
			receipts[i].Err = err
		}
		return receipts
	}
	select {
	case <-c.done:
		return failed(errClosed)
	default:
	}
	select {
	case c.together <- struct{}{}:
		defer func() { <-c.together }()
	default:
		return failed(ErrOverloaded)
	}
	if atomic, ok := c.publisher.(AtomicPublisher); ok {
		return atomic.PublishAtomically(ctx, messages)
	}
	return c.publisher.PublishBatch(ctx, messages)
}

var errClosed = fmt.Errorf("%w: the committer is closed and has not published this message", ErrUnavailable)

// Close stops taking messages, waits for the batch in flight, or all batches of a
// [SharingPublisher], and fails what is still queued with [ErrUnavailable]. It may be
// called again.
func (c *Committer) Close() {
	c.stopOnce.Do(c.stop)
	<-c.done
}

func (c *Committer) run(ctx context.Context) {
	defer close(c.done)
	if c.shared != nil {
		<-ctx.Done()
		c.shared.close()
		return
	}
	var held []*commit // same PublishID as one in the batch before: they go next
	for ctx.Err() == nil {
		batch := held
		if len(batch) == 0 {
			select {
			case one := <-c.queue:
				batch = append(batch, one)
			case <-ctx.Done():
				return
			}
		}
		batch, held = c.fill(batch)
		messages := make([]Message, len(batch))
		for i, one := range batch {
			messages[i] = one.message
		}
		// The batch in flight is finished even when the committer is closed:
		// its callers wait for the truth about their message.
		for i, receipt := range c.publisher.PublishBatch(context.WithoutCancel(ctx), messages) {
			batch[i].receipt <- receipt
		}
	}
}

// fill adds what is queued to batch, up to half a broker batch so that latency
// stays bounded. Two messages with one PublishID never share a batch: the broker
// refuses such a batch as a whole, and the second must learn the first's offset.
func (c *Committer) fill(batch []*commit) (full, held []*commit) {
	seen := make(map[string]struct{}, len(batch))
	kept := batch[:0:0]
	take := func(one *commit) {
		id := one.message.PublishID
		if _, twice := seen[id]; twice && id != "" {
			held = append(held, one)
			return
		}
		seen[id] = struct{}{}
		kept = append(kept, one)
	}
	for _, one := range batch {
		take(one)
	}
	for len(kept)+len(held) < BatchMessagesMax/2 {
		select {
		case one := <-c.queue:
			take(one)
		default:
			return kept, held
		}
	}
	return kept, held
}
