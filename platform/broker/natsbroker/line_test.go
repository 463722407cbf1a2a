package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/pace"
)

// busy has the next leader of the topic's line wait for that long, so that others
// can gather behind it.
func busy(b *Broker, rest time.Duration) *line {
	l := b.line(streamName(topic.Domain()))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pace = pace.Pace{Factor: 1, Max: rest, Full: full}
	l.pace.Ended(time.Now().Add(-rest), 2)
	return l
}

// gathered waits until that many calls wait in line.
func gathered(t *testing.T, l *line, n int) {
	t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		have := len(l.waiting)
		l.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d calls wait, want %d", have, n)
		}
	}
}

func TestLine(t *testing.T) {
	t.Run("calls that wait share a batch", func(t *testing.T) {
		b, _ := open(t, Config{AtomicFrom: 2})
		l := busy(b, time.Second)
		receipts := make([][]broker.Receipt, 5)
		var calls sync.WaitGroup
		for n := range receipts {
			calls.Go(func() { receipts[n] = b.PublishBatch(t.Context(), messages(fmt.Sprint("key", n), 3)) })
			gathered(t, l, n+1)
		}
		calls.Wait()
		for n, own := range receipts {
			for i, receipt := range own {
				if want := uint64(3*n + i + 1); receipt.Err != nil || receipt.Offset != want {
					t.Errorf("message %d of call %d: %+v, want offset %d", i, n, receipt, want)
				}
			}
		}
	})
	t.Run("a call that holds a seen id costs the others nothing", func(t *testing.T) {
		b, _ := open(t, Config{AtomicFrom: 2})
		publish(t, b, message("a", 0))
		l := busy(b, time.Second)
		receipts := make([][]broker.Receipt, 3)
		var calls sync.WaitGroup
		for n, key := range []string{"a", "b", "a"} { // the first one's are seen, the last one's are in the first
			calls.Go(func() { receipts[n] = b.PublishBatch(t.Context(), messages(key, 4)) })
			gathered(t, l, n+1)
		}
		calls.Wait()
		for n, own := range receipts {
			for i, receipt := range own {
				if seen := n == 0 && i == 0 || n == 2; receipt.Err != nil || receipt.Duplicate != seen {
					t.Errorf("message %d of call %d: %+v", i, n, receipt)
				}
			}
		}
		if n := stored(t, b); n != 8 {
			t.Errorf("%d messages are stored, want 8", n)
		}
	})
	t.Run("nor does it have all of many go one by one", func(t *testing.T) {
		b, conn := open(t, Config{})
		publish(t, b, message("key70", 0))
		l := busy(b, 10*time.Second) // until the batch is full
		var calls sync.WaitGroup
		before := conn.Stats().InMsgs
		for n := range full {
			calls.Go(func() {
				receipt := b.PublishShared(t.Context(), message(fmt.Sprint("key", n), 0))
				if receipt.Err != nil || receipt.Duplicate != (n == 70) {
					t.Errorf("message %d: %+v", n, receipt)
				}
			})
			if n < full-1 {
				gathered(t, l, n+1)
			}
		}
		calls.Wait()
		if answers := conn.Stats().InMsgs - before; answers > full/4 {
			t.Errorf("%d answers for %d messages: they went one by one", answers, full)
		}
		if n := stored(t, b); n != full {
			t.Errorf("%d messages are stored, want %d", n, full)
		}
	})
	t.Run("a call leaves when its context ends, and the others go on", func(t *testing.T) {
		b, _ := open(t, Config{AtomicFrom: 2})
		l := busy(b, time.Second)
		var calls sync.WaitGroup
		calls.Go(func() { publish(t, b, messages("a", 3)...) })
		gathered(t, l, 1)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan []broker.Receipt, 1)
		calls.Go(func() { left <- b.PublishBatch(ctx, messages("b", 3)) })
		gathered(t, l, 2)
		calls.Go(func() { publish(t, b, messages("c", 3)...) })
		gathered(t, l, 3)
		cancel()
		for _, receipt := range <-left {
			if !errors.Is(receipt.Err, broker.ErrUnavailable) {
				t.Errorf("receipt %+v", receipt)
			}
		}
		calls.Wait()
		if n := stored(t, b); n != 6 {
			t.Errorf("%d messages are stored, want 6", n)
		}
	})
	t.Run("the line goes on when the context of its only call has ended", func(t *testing.T) {
		b, _ := open(t, Config{AtomicFrom: 2})
		l := busy(b, 300*time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		calls.Go(func() { b.PublishBatch(ctx, messages("a", 3)) })
		gathered(t, l, 1)
		calls.Go(func() { publish(t, b, messages("b", 3)...) })
		gathered(t, l, 2)
		cancel()
		calls.Wait()
		publish(t, b, messages("c", 3)...)
	})
	t.Run("behind a batch that is under way only a large one goes out", func(t *testing.T) {
		b, _ := open(t, Config{})
		l := b.line(streamName(topic.Domain()))
		under := func(n int) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.underWay = n
			l.tell()
		}
		under(1)
		var calls sync.WaitGroup
		calls.Go(func() { publish(t, b, messages("a", full-1)...) })
		gathered(t, l, 1)
		calls.Go(func() { publish(t, b, message("b", 0)) }) // now it is large
		calls.Wait()
		calls.Go(func() { publish(t, b, message("c", 0)) })
		gathered(t, l, 1)
		under(0)
		calls.Wait()
		under(underWayMax)
		calls.Go(func() { publish(t, b, messages("d", 2*full)...) })
		gathered(t, l, 1)
		under(underWayMax - 1)
		calls.Wait()
		under(0)
		if n := stored(t, b); n != 3*full+1 {
			t.Errorf("%d messages are stored, want %d", n, 3*full+1)
		}
	})
	t.Run("batches that are under way at once store each message once", func(t *testing.T) {
		b, _ := open(t, Config{})
		const callers, each = 3 * full, 4
		var offsets sync.Map
		var calls sync.WaitGroup
		for n := range callers {
			calls.Go(func() {
				for i := range each {
					receipt := b.PublishShared(t.Context(), message(fmt.Sprint("key", n), i))
					if receipt.Err != nil || receipt.Duplicate {
						t.Errorf("message %d of %d: %+v", i, n, receipt)
					}
					if other, twice := offsets.LoadOrStore(receipt.Offset, n); twice {
						t.Errorf("callers %d and %v have the same offset %d", n, other, receipt.Offset)
					}
				}
			})
		}
		calls.Wait()
		if n := stored(t, b); n != callers*each {
			t.Errorf("%d messages are stored, want %d", n, callers*each)
		}
		got := make(map[string]int)
		for _, d := range next(t, read(t, b, everything(b)), callers*each) {
			if want := fmt.Sprintf("%s-%d", d.Event.PartitionKey, got[d.Event.PartitionKey]); d.Event.ID != want {
				t.Errorf("%s came, want %s", d.Event.ID, want)
			}
			got[d.Event.PartitionKey]++
		}
	})
	t.Run("a message that cannot go out is told to its caller alone", func(t *testing.T) {
		b, _ := open(t, Config{})
		bad := message("a", 0)
		bad.Event.Type = ""
		if receipt := b.PublishShared(t.Context(), bad); !errors.Is(receipt.Err, broker.ErrRejected) {
			t.Errorf("receipt %+v", receipt)
		}
	})
}
