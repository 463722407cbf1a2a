package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// errLost is what becomes of an ack whose partition went to another member, which
// has got the message or will.
var errLost = fmt.Errorf("%w: the partition belongs to another member by now, which gets the message again", broker.ErrUnavailable)

// tenure is a member's time with its partitions, which is one generation of the
// group. It commits positions and sees to three things that kafka-go leaves open:
// that nothing is committed after the tenure, when the partition may have another
// owner; that a position never goes back; and that no message is passed over,
// since a position moves only when the message it stands at is done with.
//
// Acks that come while a commit is in flight share the next one.
type tenure struct {
	commit func(map[int]int64) error
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	over    bool
	next    map[int]int64 // Kafka's offset of the first message that is not done with
	changed map[int]int64 // what of next is to be committed
	waiting []chan error  // of those whose ack goes with the next commit; capacity 1
}

func newTenure(commit func(map[int]int64) error, next map[int]int64) *tenure {
	return &tenure{commit: commit, wake: make(chan struct{}, 1), next: maps.Clone(next), changed: make(map[int]int64)}
}

// done notes that the message at an offset of Kafka's is done with. What it
// returns receives the outcome of the commit, if the tenure lasts until then.
func (t *tenure) done(partition int, offset int64) (<-chan error, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, ours := t.next[partition]
	if t.over || !ours {
		return nil, errLost
	}
	outcome := make(chan error, 1)
	if offset < next { // it was acknowledged before
		outcome <- nil
		return outcome, nil
	}
	t.next[partition], t.changed[partition] = offset+1, offset+1
	t.waiting = append(t.waiting, outcome)
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return outcome, nil
}

// run commits until the tenure ends; what was done by then is still committed.
func (t *tenure) run() {
	for range t.wake {
		t.mu.Lock()
		changed, waiting := t.changed, t.waiting
		t.changed, t.waiting = make(map[int]int64), nil
		t.mu.Unlock()
		if len(waiting) == 0 {
			continue
		}
		err := t.commit(changed)
		if err != nil {
			err = fmt.Errorf("%w: commit: %w", broker.ErrUnavailable, err)
		}
		for _, outcome := range waiting {
			outcome <- err
		}
	}
}

// end ends the tenure: nothing is done any more. It does not wait for run.
func (t *tenure) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	close(t.wake) // a wake-up that is in it is still received
}

// handout is one attempt at a message.
type handout struct {
	tenure  *tenure
	d       broker.Delivery
	attempt int
	settled chan struct{} // closed when done and delay say how it ended
	done    bool
	delay   time.Duration

	mu    sync.Mutex
	ended bool
}

func newHandout(t *tenure, d broker.Delivery, attempt int) *handout {
	return &handout{tenure: t, d: d, attempt: attempt, settled: make(chan struct{})}
}

func (h *handout) delivery() broker.GroupDelivery {
	return broker.GroupDelivery{Delivery: h.d, Attempt: h.attempt, Ack: h.ack, Retry: h.retry}
}

// end settles the attempt. It reports false when it had been settled or given up.
func (h *handout) end(done bool, delay time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.ended, h.done, h.delay = true, done, delay
	close(h.settled)
	return true
}

// abandon gives the attempt up: its ack comes too late from now on.
func (h *handout) abandon() { h.end(false, 0) }

var errSettled = errors.New("the message was settled before")

func (h *handout) ack(ctx context.Context) error {
	h.mu.Lock()
	if h.ended {
		h.mu.Unlock()
		return h.late()
	}
	outcome, err := h.tenure.done(h.d.Partition, int64(h.d.Offset)-1)
	h.mu.Unlock()
	if err != nil {
		h.end(false, 0)
		return err
	}
	h.end(true, 0)
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: whether the ack arrived is unknown: %w", broker.ErrUnavailable, ctx.Err())
	}
}

func (h *handout) retry(delay time.Duration) error {
	if !h.end(false, delay) {
		return h.late()
	}
	return nil
}

func (h *handout) late() error {
	h.tenure.mu.Lock()
	defer h.tenure.mu.Unlock()
	if h.tenure.over {
		return errLost
	}
	return errSettled
}
