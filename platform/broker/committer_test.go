package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// slowPublisher takes a while over each batch and remembers them.
type slowPublisher struct {
	took time.Duration

	mu      sync.Mutex
	batches [][]string
	stored  map[string]uint64
}

func (p *slowPublisher) PublishBatch(ctx context.Context, messages []broker.Message) []broker.Receipt {
	select {
	case <-time.After(p.took):
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stored == nil {
		p.stored = make(map[string]uint64)
	}
	receipts := make([]broker.Receipt, len(messages))
	var ids []string
	for i, m := range messages {
		ids = append(ids, m.PublishID)
		if offset, seen := p.stored[m.PublishID]; seen && m.PublishID != "" {
			receipts[i] = broker.Receipt{Offset: offset, Duplicate: true}
			continue
		}
		p.stored[m.PublishID] = uint64(len(p.stored) + 1)
		receipts[i].Offset = p.stored[m.PublishID]
		if m.PublishID == "bad" {
			receipts[i] = broker.Receipt{Err: fmt.Errorf("%w: no", broker.ErrRejected)}
		}
	}
	p.batches = append(p.batches, ids)
	return receipts
}

func (p *slowPublisher) seen() [][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.batches
}

func one(id string) broker.Message { return broker.Message{PublishID: id} }

func TestCommitter(t *testing.T) {
	// publishAll publishes each id from a caller of its own, in that order.
	publishAll := func(t *testing.T, c *broker.Committer, ids ...string) (receipts []broker.Receipt, wait func()) {
		t.Helper()
		receipts = make([]broker.Receipt, len(ids))
		var callers sync.WaitGroup
		for i, id := range ids {
			callers.Go(func() { receipts[i], _ = c.Publish(t.Context(), one(id)) })
			synctest.Wait() // it is in the queue
		}
		return receipts, callers.Wait
	}

	t.Run("a single message does not wait for company", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := broker.NewCommitter(&slowPublisher{took: time.Millisecond}, 0)
			defer c.Close()
			begin := time.Now()
			if receipt, err := c.Publish(t.Context(), one("1")); err != nil || receipt.Offset != 1 {
				t.Errorf("Publish = %+v, %v", receipt, err)
			}
			if took := time.Since(begin); took != time.Millisecond {
				t.Errorf("it took %s", took)
			}
		})
	})
	t.Run("what arrives while a batch is in flight shares the next, in order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &slowPublisher{took: time.Millisecond}
			c := broker.NewCommitter(p, 0)
			defer c.Close()
			receipts, wait := publishAll(t, c, "1", "2", "3", "4", "5")
			wait()
			if want := [][]string{{"1"}, {"2", "3", "4", "5"}}; fmt.Sprint(p.batches) != fmt.Sprint(want) {
				t.Errorf("batches %v, want %v", p.batches, want)
			}
			for i, receipt := range receipts {
				if receipt.Offset != uint64(i+1) {
					t.Errorf("message %d got the receipt %+v", i+1, receipt)
				}
			}
		})
	})
	t.Run("two messages with one publish id never share a batch, and the second learns of the first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &slowPublisher{took: time.Millisecond}
			c := broker.NewCommitter(p, 0)
			defer c.Close()
			receipts, wait := publishAll(t, c, "busy", "x", "x", "y", "x", "y", "z")
			wait()
			for _, batch := range p.batches {
				if sorted := slices.Compact(slices.Sorted(slices.Values(batch))); len(sorted) != len(batch) {
					t.Errorf("batch %v holds an id twice", batch)
				}
			}
			for _, i := range []int{2, 4} {
				if !receipts[i].Duplicate || receipts[i].Offset != receipts[1].Offset {
					t.Errorf("copy %d: %+v, first %+v", i, receipts[i], receipts[1])
				}
			}
			if receipts[1].Duplicate || receipts[6].Offset == 0 {
				t.Errorf("receipts %+v", receipts)
			}
		})
	})
	t.Run("messages without a publish id may share one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &slowPublisher{took: time.Millisecond}
			c := broker.NewCommitter(p, 0)
			defer c.Close()
			_, wait := publishAll(t, c, "busy", "", "", "")
			wait()
			if len(p.batches) != 2 {
				t.Errorf("batches %q, want two", p.batches)
			}
		})
	})
	t.Run("a batch is at most half of what the broker takes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &slowPublisher{took: time.Millisecond}
			c := broker.NewCommitter(p, 0)
			defer c.Close()
			var callers sync.WaitGroup
			for n := range 1200 {
				callers.Go(func() { _, _ = c.Publish(t.Context(), one(strconv.Itoa(n))) })
			}
			callers.Wait()
			for _, batch := range p.batches {
				if len(batch) > broker.BatchMessagesMax/2 {
					t.Errorf("a batch has %d messages", len(batch))
				}
			}
			if len(p.stored) != 1200 {
				t.Errorf("%d messages are stored", len(p.stored))
			}
		})
	})
	t.Run("a message that is refused fails its caller alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := broker.NewCommitter(&slowPublisher{took: time.Millisecond}, 0)
			defer c.Close()
			_, wait := publishAll(t, c, "busy")
			var good, bad error
			var callers sync.WaitGroup
			callers.Go(func() { _, good = c.Publish(t.Context(), one("good")) })
			callers.Go(func() { _, bad = c.Publish(t.Context(), one("bad")) })
			callers.Wait()
			wait()
			if good != nil || !errors.Is(bad, broker.ErrRejected) {
				t.Errorf("good: %v, bad: %v", good, bad)
			}
		})
	})
	t.Run("a full queue refuses at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &slowPublisher{took: time.Hour}
			c := broker.NewCommitter(p, 2)
			defer c.Close()
			_, wait := publishAll(t, c, "in flight", "1", "2")
			begin := time.Now()
			if _, err := c.Publish(t.Context(), one("3")); !errors.Is(err, broker.ErrOverloaded) || time.Since(begin) != 0 {
				t.Errorf("error = %v after %s, want ErrOverloaded at once", err, time.Since(begin))
			}
			wait()
			if _, stored := p.stored["3"]; stored {
				t.Error("a message that was refused was published")
			}
		})
	})
	t.Run("a caller whose context ends leaves, the others do not notice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &slowPublisher{took: time.Minute}
			c := broker.NewCommitter(p, 0)
			defer c.Close()
			_, wait := publishAll(t, c, "in flight")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			if _, err := c.Publish(ctx, one("impatient")); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
				t.Errorf("error = %v after %s", err, time.Since(begin))
			}
			if _, err := c.Publish(t.Context(), one("patient")); err != nil {
				t.Error(err)
			}
			if _, err := c.Publish(ctx, one("too late")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("with an ended context: %v", err)
			}
			wait()
			if _, stored := p.stored["too late"]; stored {
				t.Error("a message was published for a context that had ended before")
			}
		})
	})
	t.Run("Close finishes the batch in flight and fails the rest", func(t *testing.T) {
		closing := func(t *testing.T) {
			p := &slowPublisher{took: time.Second}
			c := broker.NewCommitter(p, 0)
			errs := make([]error, 5)
			var callers sync.WaitGroup
			for i := range errs {
				callers.Go(func() { _, errs[i] = c.Publish(t.Context(), one(strconv.Itoa(i%4))) }) // 0 and 4 are copies
				synctest.Wait()
			}
			begin := time.Now()
			c.Close()
			if took := time.Since(begin); took != time.Second {
				t.Errorf("Close took %s", took)
			}
			callers.Wait()
			if errs[0] != nil {
				t.Errorf("in flight: %v", errs[0])
			}
			for i, err := range errs[1:] {
				if !errors.Is(err, broker.ErrUnavailable) {
					t.Errorf("queued message %d: %v, want ErrUnavailable", i+1, err)
				}
			}
			if len(p.batches) != 1 {
				t.Errorf("batches %v, want one", p.batches)
			}
			if _, err := c.Publish(t.Context(), one("late")); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("after Close: %v", err)
			}
			c.Close() // does nothing
		}
		for range 20 { // what is ready at once is taken in any order
			synctest.Test(t, closing)
		}
	})
}

// atomicPublisher stores batches whole.
type atomicPublisher struct{ slowPublisher }

func (p *atomicPublisher) PublishAtomically(ctx context.Context, messages []broker.Message) []broker.Receipt {
	return p.PublishBatch(ctx, append([]broker.Message{one("whole")}, messages...))[1:]
}

func TestCommitterPublishesTogether(t *testing.T) {
	t.Run("by itself, and as a whole where it can", func(t *testing.T) {
		for _, p := range []interface {
			broker.Publisher
			seen() [][]string
		}{&slowPublisher{}, &atomicPublisher{}} {
			c := broker.NewCommitter(p, 0)
			receipts := c.PublishTogether(t.Context(), []broker.Message{one("1"), one("2")})
			c.Close()
			want := [][]string{{"1", "2"}}
			if _, ok := p.(broker.AtomicPublisher); ok {
				want = [][]string{{"whole", "1", "2"}}
			}
			if len(receipts) != 2 || receipts[1].Err != nil || receipts[1].Offset == 0 || fmt.Sprint(p.seen()) != fmt.Sprint(want) {
				t.Errorf("batches %v, receipts %+v", p.seen(), receipts)
			}
			if closed := c.PublishTogether(t.Context(), []broker.Message{one("3")}); !errors.Is(closed[0].Err, broker.ErrUnavailable) {
				t.Errorf("after the close: %+v", closed)
			}
		}
	})
	t.Run("too many at once are refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := broker.NewCommitter(&slowPublisher{took: time.Minute}, 0)
			defer c.Close()
			var callers sync.WaitGroup
			for n := range 64 {
				callers.Go(func() { c.PublishTogether(t.Context(), []broker.Message{one(strconv.Itoa(n))}) })
			}
			synctest.Wait()
			if receipts := c.PublishTogether(t.Context(), []broker.Message{one("x")}); !errors.Is(receipts[0].Err, broker.ErrOverloaded) {
				t.Errorf("receipts %+v", receipts)
			}
			callers.Wait()
			if receipts := c.PublishTogether(t.Context(), []broker.Message{one("x")}); receipts[0].Err != nil {
				t.Errorf("receipts %+v", receipts)
			}
		})
	})
}

// sharingPublisher is one that puts messages together by itself. It takes as long as its
// callers' contexts or release let it.
type sharingPublisher struct {
	slowPublisher

	release chan struct{}
}

func (p *sharingPublisher) PublishShared(ctx context.Context, message broker.Message) broker.Receipt {
	select {
	case <-p.release:
	case <-ctx.Done():
		return broker.Receipt{Err: fmt.Errorf("%w: %w", broker.ErrUnavailable, ctx.Err())}
	}
	return p.PublishBatch(ctx, []broker.Message{message})[0]
}

func TestCommitterOfASharingPublisher(t *testing.T) {
	t.Run("each message is handed over at once, and no more than the queue holds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &sharingPublisher{release: make(chan struct{})}
			c := broker.NewCommitter(p, 2)
			defer c.Close()
			var callers sync.WaitGroup
			for _, id := range []string{"1", "2"} {
				callers.Go(func() {
					if receipt, err := c.Publish(t.Context(), one(id)); err != nil || receipt.Offset == 0 {
						t.Errorf("Publish(%s) = %+v, %v", id, receipt, err)
					}
				})
			}
			synctest.Wait()
			if _, err := c.Publish(t.Context(), one("3")); !errors.Is(err, broker.ErrOverloaded) {
				t.Errorf("a third: %v, want ErrOverloaded", err)
			}
			close(p.release)
			callers.Wait()
			if _, err := c.Publish(t.Context(), one("3")); err != nil {
				t.Errorf("after the others: %v", err)
			}
		})
	})
	t.Run("a caller whose context has ended leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &sharingPublisher{release: make(chan struct{})}
			c := broker.NewCommitter(p, 1)
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for range 2 { // in time, and late
				if _, err := c.Publish(ctx, one("1")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error = %v", err)
				}
			}
			if len(p.seen()) != 0 {
				t.Errorf("batches %v", p.seen())
			}
		})
	})
	t.Run("closing waits for what is under way and takes nothing more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &sharingPublisher{release: make(chan struct{})}
			c := broker.NewCommitter(p, 0)
			var callers sync.WaitGroup
			callers.Go(func() {
				if _, err := c.Publish(t.Context(), one("1")); err != nil {
					t.Errorf("under way: %v", err)
				}
			})
			synctest.Wait()
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				c.Close()
			}()
			synctest.Wait()
			select {
			case <-closed:
				t.Error("Close did not wait")
			default:
			}
			if _, err := c.Publish(t.Context(), one("2")); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("while closing: %v", err)
			}
			close(p.release)
			callers.Wait()
			<-closed
			c.Close()
		})
	})
}
