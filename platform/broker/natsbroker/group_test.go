package natsbroker

import (
	"context"
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
		dying := server.Connect(t)
		member := on(t, dying, Config{})
		member.ackWait = b.ackWait
		nextOf(t, subscribe(t, member, "g"))
		dying.Close()
		if d := nextOf(t, subscribe(t, b, "g")); d.Event.ID != "a-1" || d.Attempt != 2 {
			t.Errorf("got %s, attempt %d", d.Event.ID, d.Attempt)
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
		server.Stop()
		server.Start(t)
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
}
