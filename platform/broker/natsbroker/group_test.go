package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

func subscribe(t *testing.T, b *Broker, name string) broker.Group {
	t.Helper()
	group, err := b.Subscribe(t.Context(), topic, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Close)
	return group
}

func nextOf(t *testing.T, group broker.Group) broker.GroupDelivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := group.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGroup(t *testing.T) {
	t.Run("two members share the messages and keep each key's order through retries", func(t *testing.T) {
		b, _ := open(t, Config{})
		const keys, each = 8, 20
		for k := range keys {
			publish(t, b, messages(fmt.Sprint("key", k), each)...)
		}
		ctx, done := context.WithTimeout(t.Context(), patience)
		defer done()
		var (
			mu      sync.Mutex
			handled = make(map[string][]string)
			total   int
			members sync.WaitGroup
		)
		for range 2 {
			group := subscribe(t, b, "g")
			members.Go(func() {
				for {
					d, err := group.Next(ctx)
					if err != nil {
						return
					}
					if d.Attempt == 1 && d.Offset%5 == 0 {
						if err := d.Retry(10 * time.Millisecond); err != nil {
							t.Error(err)
						}
						continue
					}
					mu.Lock()
					handled[d.Event.PartitionKey] = append(handled[d.Event.PartitionKey], d.Event.ID)
					total++
					all := total == keys*each
					mu.Unlock()
					if err := d.Ack(ctx); err != nil {
						t.Error(err)
					}
					if all {
						done()
					}
				}
			})
		}
		members.Wait()
		for k := range keys {
			key := fmt.Sprint("key", k)
			if !slices.Equal(handled[key], keyIDs(key, 0, each)) {
				t.Errorf("%s was handled as %v", key, handled[key])
			}
		}
	})
	t.Run("a message that is retried comes before later ones of its partition", func(t *testing.T) {
		b, _ := open(t, Config{})
		publish(t, b, messages("a", 2)...)
		group := subscribe(t, b, "g")
		d := nextOf(t, group)
		if err := d.Retry(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if again := nextOf(t, group); again.Event.ID != d.Event.ID || again.Attempt != 2 {
			t.Errorf("got %s, attempt %d, want %s again", again.Event.ID, again.Attempt, d.Event.ID)
		}
	})
	t.Run("what a member has not acknowledged goes to another when it closes", func(t *testing.T) {
		b, _ := open(t, Config{})
		publish(t, b, messages("a", 2)...)
		leaving := subscribe(t, b, "g")
		if d := nextOf(t, leaving); d.Event.ID != "a-0" {
			t.Fatalf("got %s first", d.Event.ID)
		}
		staying := subscribe(t, b, "g")
		leaving.Close()
		for n := range 2 {
			d := nextOf(t, staying)
			if want := fmt.Sprint("a-", n); d.Event.ID != want {
				t.Errorf("got %s, want %s", d.Event.ID, want)
			}
			if err := d.Ack(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a slow member keeps its message", func(t *testing.T) {
		b, _ := open(t, Config{})
		b.ackWait = 300 * time.Millisecond
		publish(t, b, message("a", 1))
		slow, other := subscribe(t, b, "g"), subscribe(t, b, "g")
		ctx, cancel := context.WithTimeout(t.Context(), 4*b.ackWait)
		defer cancel()
		got := make(chan broker.GroupDelivery, 8)
		var waiting sync.WaitGroup
		for _, group := range []broker.Group{slow, other} {
			waiting.Go(func() {
				for {
					d, err := group.Next(ctx)
					if err != nil {
						return
					}
					got <- d
				}
			})
		}
		waiting.Wait()
		if len(got) != 1 {
			t.Errorf("it was delivered %d times while it was being handled", len(got))
		}
		if d := <-got; d.Ack(t.Context()) != nil {
			t.Error("it could not be acknowledged after that time")
		}
	})
	t.Run("a member that is gone without a word loses its message in time", func(t *testing.T) {
		server, conn := newRestartable(t)
		b := on(t, conn, Config{})
		b.ackWait = 300 * time.Millisecond
		publish(t, b, message("a", 1))
		dying, err := server.server.Connect()
		if err != nil {
			t.Fatal(err)
		}
		member := on(t, dying, Config{})
		member.ackWait = b.ackWait
		nextOf(t, subscribe(t, member, "g"))
		dying.Close()
		if d := nextOf(t, subscribe(t, b, "g")); d.Event.ID != "a-1" || d.Attempt != 2 {
			t.Errorf("got %s, attempt %d", d.Event.ID, d.Attempt)
		}
	})
	t.Run("groups are independent, and a new one begins with the oldest message", func(t *testing.T) {
		b, _ := open(t, Config{})
		publish(t, b, message("a", 1))
		for _, name := range []string{"one", "two"} {
			d := nextOf(t, subscribe(t, b, name))
			if d.Event.ID != "a-1" || d.Attempt != 1 {
				t.Errorf("%s got %s, attempt %d", name, d.Event.ID, d.Attempt)
			}
		}
	})
	t.Run("topics of alike names have consumers of their own", func(t *testing.T) {
		b, _ := open(t, Config{})
		one := message("a", 1)
		one.Topic = "test.b_c"
		publish(t, b, one)
		alike, err := b.Subscribe(t.Context(), "test.b.c", "g")
		if err != nil {
			t.Fatal(err)
		}
		defer alike.Close()
		group, err := b.Subscribe(t.Context(), "test.b_c", "g")
		if err != nil {
			t.Fatal(err)
		}
		defer group.Close()
		if d := nextOf(t, group); d.Event.ID != "a-1" {
			t.Errorf("got %s", d.Event.ID)
		}
	})
	t.Run("it goes on when the server starts again", func(t *testing.T) {
		server, conn := newRestartable(t)
		b := on(t, conn, Config{})
		publish(t, b, messages("a", 4)...)
		group := subscribe(t, b, "g")
		first := nextOf(t, group)
		if err := first.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
		held := nextOf(t, group)
		server.server.Stop()
		server.start(t)
		if err := held.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"a-2", "a-3"} {
			d := nextOf(t, group)
			if d.Event.ID != want {
				t.Errorf("got %s, want %s", d.Event.ID, want)
			}
			if err := d.Ack(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a topic that is gone is reported", func(t *testing.T) {
		b, _ := open(t, Config{})
		group := subscribe(t, b, "g")
		makeAnew(t, b)
		for range 2 {
			if d, err := group.Next(t.Context()); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("Next = %v, %v, want ErrUnavailable", d.Event.ID, err)
			}
		}
		if _, err := b.Subscribe(t.Context(), "missing.events", "g"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
	t.Run("a name that is no consumer name is refused", func(t *testing.T) {
		b, _ := open(t, Config{})
		for _, name := range []string{"", "a.b", "a*", "a>", "a b", "a/b"} {
			if _, err := b.Subscribe(t.Context(), topic, name); err == nil {
				t.Errorf("%q was let through", name)
			}
		}
	})
}
