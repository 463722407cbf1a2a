package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// members handles messages with several members at once and remembers how.
type members struct {
	mu      sync.Mutex
	handled map[string][]string // ids by key, in the order of handling
	total   int
	want    int
	done    context.CancelFunc
	running sync.WaitGroup
}

// progress waits until so many more messages are handled, or all.
func (m *members) progress(ctx context.Context, more int) {
	m.mu.Lock()
	until := min(m.total+more, m.want)
	m.mu.Unlock()
	for ctx.Err() == nil {
		m.mu.Lock()
		reached := m.total >= until
		m.mu.Unlock()
		if reached {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// handle has a member handle messages until all are handled or the context ends,
// and closes left then.
func (m *members) handle(ctx context.Context, t *testing.T, group broker.Group, each func(d broker.GroupDelivery) (retry bool)) (left <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{})
	m.running.Go(func() {
		defer close(ended)
		for {
			d, err := group.Next(ctx)
			if err != nil {
				return
			}
			if each != nil && each(d) {
				if err := d.Retry(10 * time.Millisecond); err != nil {
					t.Logf("retry of %s: %v", d.Event.ID, err)
				}
				continue
			}
			m.mu.Lock()
			m.handled[d.Event.PartitionKey] = append(m.handled[d.Event.PartitionKey], d.Event.ID)
			m.total++
			all := m.total == m.want
			m.mu.Unlock()
			if err := d.Ack(context.WithoutCancel(ctx)); err != nil {
				t.Errorf("ack of %s: %v", d.Event.ID, err)
			}
			if all {
				m.done()
			}
		}
	})
	return ended
}

func (s *suite) groups(t *testing.T) {
	t.Run("members share the messages and keep each key's order through retries", func(t *testing.T) {
		r := s.rig(t)
		const each = 20
		keys := r.fill(t, 8, each)
		ctx, done := context.WithTimeout(t.Context(), patience)
		defer done()
		m := &members{handled: make(map[string][]string), want: len(keys) * each, done: done}
		for range 2 {
			m.handle(ctx, t, r.another(t).subscribe(t, "g"), func(d broker.GroupDelivery) bool { return d.Attempt == 1 && d.Offset%5 == 0 })
		}
		m.running.Wait()
		inOrder(t, m.handled, keys, each)
	})
	t.Run("members that come and go in the middle lose nothing, and neither order nor a message's single handling", func(t *testing.T) {
		r := s.rig(t)
		const each = 40
		keys := r.fill(t, 8, each)
		ctx, done := context.WithTimeout(t.Context(), 2*patience)
		defer done()
		m := &members{handled: make(map[string][]string), want: len(keys) * each, done: done}
		slowly := func(broker.GroupDelivery) bool {
			time.Sleep(5 * time.Millisecond)
			return false
		}
		m.handle(ctx, t, r.subscribe(t, "g"), slowly)
		for range 3 {
			m.progress(ctx, each/2)
			guest, leave := context.WithCancel(ctx)
			group := r.another(t).subscribe(t, "g")
			left := m.handle(guest, t, group, slowly)
			m.progress(ctx, each/2)
			leave()
			<-left // with what it had in hand
			group.Close()
		}
		m.running.Wait()
		inOrder(t, m.handled, keys, each)
	})
	t.Run("a message that is retried comes again after the delay and before later ones of its partition", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 2)...)
		group := r.subscribe(t, "g")
		for attempt := range 3 {
			d := take(t, group)
			if d.Event.ID != "a-0" || d.Attempt != attempt+1 {
				t.Fatalf("got %s, attempt %d, want a-0, attempt %d", d.Event.ID, d.Attempt, attempt+1)
			}
			begin, delay := time.Now(), 200*time.Millisecond
			if err := d.Retry(delay); err != nil {
				t.Fatal(err)
			}
			if attempt < 2 {
				continue
			}
			d = take(t, group)
			if took := time.Since(begin); took < delay {
				t.Errorf("it came again after %s, before the delay of %s", took, delay)
			}
			ack(t, d)
		}
		if d := take(t, group); d.Event.ID != "a-1" || d.Attempt != 1 {
			t.Errorf("got %s, attempt %d, want a-1", d.Event.ID, d.Attempt)
		}
	})
	t.Run("a partition that waits holds no other up", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.message("a", 0), r.message("c", 0), r.message("c", 1))
		group := r.subscribe(t, "g")
		var held broker.GroupDelivery
		for seen := 0; seen < 2; {
			d := take(t, group)
			if d.Event.PartitionKey == "a" {
				held = d
				continue
			}
			ack(t, d)
			seen++
		}
		if held.Ack == nil {
			held = take(t, group)
		}
		ack(t, held)
	})
	t.Run("what a member has not acknowledged goes to another when it closes, and its ack comes too late", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 2)...)
		leaving := r.subscribe(t, "g")
		held := take(t, leaving)
		if held.Event.ID != "a-0" {
			t.Fatalf("got %s first", held.Event.ID)
		}
		staying := r.another(t).subscribe(t, "g")
		leaving.Close()
		for n := range 2 {
			d := take(t, staying)
			if want := fmt.Sprint("a-", n); d.Event.ID != want {
				t.Errorf("got %s, want %s", d.Event.ID, want)
			}
			if n == 1 { // the other one is acknowledged by its new owner only
				_ = held.Ack(t.Context())
			}
			ack(t, d)
		}
		r.publish(t, r.message("a", 2))
		if d := take(t, staying); d.Event.ID != "a-2" {
			t.Errorf("after a late ack came %s, want a-2", d.Event.ID)
		}
	})
	t.Run("a member that finishes what it has before it closes leaves nothing to do twice", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 4)...)
		leaving := r.subscribe(t, "g")
		for n := range 2 {
			d := take(t, leaving)
			if want := fmt.Sprint("a-", n); d.Event.ID != want {
				t.Errorf("got %s, want %s", d.Event.ID, want)
			}
			ack(t, d)
		}
		leaving.Close()
		staying := r.another(t).subscribe(t, "g")
		if d := take(t, staying); d.Event.ID != "a-2" {
			t.Errorf("got %s, want a-2", d.Event.ID)
		}
	})
	t.Run("a slow member keeps its message while another one joins", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 2)...)
		slow := r.subscribe(t, "g")
		held := take(t, slow)
		joining := make(chan broker.Group, 1)
		other := r.another(t)
		go func() { joining <- other.subscribe(t, "g") }()
		group := <-joining
		idle(t, group, 2*time.Second)
		ack(t, held)
		// One of them has the partition now.
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		got := make(chan string, 2)
		var waiting sync.WaitGroup
		for _, member := range []broker.Group{slow, group} {
			waiting.Go(func() {
				if d, err := member.Next(ctx); err == nil {
					got <- d.Event.ID
					cancel()
				}
			})
		}
		waiting.Wait()
		if len(got) != 1 {
			t.Fatalf("%d messages came", len(got))
		}
		if id := <-got; id != "a-1" {
			t.Errorf("got %s, want a-1", id)
		}
	})
	t.Run("groups are independent, and a new one begins with the oldest message", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.message("a", 1))
		for _, name := range []string{"one", "two"} {
			d := take(t, r.subscribe(t, name))
			if d.Event.ID != "a-1" || d.Attempt != 1 {
				t.Errorf("%s got %s, attempt %d", name, d.Event.ID, d.Attempt)
			}
			ack(t, d)
		}
	})
	t.Run("a topic that is gone is reported", func(t *testing.T) {
		r := s.rig(t)
		group := r.subscribe(t, "g")
		r.publish(t, r.message("a", 1))
		ack(t, take(t, group))
		r.makeAnew(t)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for range 2 {
			if d, err := group.Next(ctx); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("Next = %v, %v, want ErrUnavailable", d.Event.ID, err)
			}
		}
		if _, err := r.Subscribe(t.Context(), "missing.events", "g"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
	t.Run("a name that is no group's is refused", func(t *testing.T) {
		r := s.rig(t)
		for _, name := range []string{"", "a.b", "a*", "a>", "a b", "a/b"} {
			if _, err := r.Subscribe(t.Context(), r.topic, name); err == nil {
				t.Errorf("%q was let through", name)
			}
		}
	})
}

// fill publishes messages of several keys and returns the keys.
func (r *rig) fill(t *testing.T, keys, each int) []string {
	t.Helper()
	var names []string
	for k := range keys {
		names = append(names, fmt.Sprint("key", k))
		r.publish(t, r.messages(names[k], 0, each)...)
	}
	return names
}
