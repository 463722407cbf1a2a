package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// crashes kills a member at each point of handling a message.
func (s *suite) crashes(t *testing.T) {
	for what, one := range map[string]struct {
		handle func(t *testing.T, d broker.GroupDelivery)
		next   string // what the next member begins with
		again  bool   // whether the dead one had it
	}{
		"before it handles": {func(*testing.T, broker.GroupDelivery) {}, "a-0", true},
		"after the ack":     {ack, "a-1", false},
		"while a retry waits for its time": {func(t *testing.T, d broker.GroupDelivery) {
			t.Helper()
			if err := d.Retry(100 * time.Millisecond); err != nil {
				t.Error(err)
			}
		}, "a-0", true},
	} {
		t.Run("a member that dies "+what+" is replaced", func(t *testing.T) {
			r := s.rig(t)
			r.publish(t, r.messages("a", 0, 3)...)
			dying := r.another(t)
			one.handle(t, take(t, dying.subscribe(t, "g")))
			dying.Kill()
			begin := time.Now()
			d := take(t, r.subscribe(t, "g"))
			if d.Event.ID != one.next {
				t.Errorf("got %s, want %s", d.Event.ID, one.next)
			}
			if one.again && d.Attempt < 2 && !s.promises.AttemptsPerMember {
				t.Errorf("attempt %d, want at least the second", d.Attempt)
			}
			if took := time.Since(begin); took > s.promises.TakeOver+patience/4 {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("the ack of a member that was cut off moves nothing", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 4)...)
		stale := r.another(t)
		held := take(t, stale.subscribe(t, "g"))
		stale.Kill()
		heir := r.subscribe(t, "g")
		for n := range 3 {
			d := take(t, heir)
			if want := fmt.Sprint("a-", n); d.Event.ID != want {
				t.Fatalf("got %s, want %s", d.Event.ID, want)
			}
			ack(t, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := held.Ack(ctx); err == nil {
			t.Error("the ack of a dead member was taken")
		}
		heir.Close()
		if d := take(t, r.another(t).subscribe(t, "g")); d.Event.ID != "a-3" {
			t.Errorf("after it the group is at %s, want a-3", d.Event.ID)
		}
	})
}

// outage stops the server and starts it again, under clients of every kind.
func (s *suite) outage(t *testing.T) {
	t.Run("a server that is away is reported within the context's time", func(t *testing.T) {
		r := s.rig(t)
		reader, err := r.Read(t.Context(), r.topic, r.everything())
		if err != nil {
			t.Fatal(err)
		}
		s.server.Stop(t)
		defer s.server.Start(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		for i, receipt := range r.PublishBatch(ctx, r.messages("a", 0, 20)) {
			if !errors.Is(receipt.Err, broker.ErrUnavailable) || receipt.Offset != 0 {
				t.Errorf("message %d: %+v, want ErrUnavailable", i, receipt)
			}
		}
		if err := r.Ping(ctx); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Ping() = %v, want ErrUnavailable", err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		begin = time.Now()
		reader.Close()
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("closing a reader took %s", took)
		}
	})
	t.Run("what is published meanwhile is stored afterwards, once and in order, and readers and members go on", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 50)...)
		reader := r.read(t, r.everything())
		got := next(t, reader, 20)
		tail, err := r.Tail(t.Context(), r.topic)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tail.Close)
		group := r.another(t).subscribe(t, "g")
		ack(t, take(t, group))
		held := take(t, group)

		s.server.Stop(t)
		ctx, cancel := context.WithTimeout(t.Context(), patience+s.promises.Outage)
		defer cancel()
		published := make(chan error, 1)
		go func() { published <- r.insist(ctx, r.messages("a", 50, 300)) }()
		time.Sleep(s.promises.Outage)
		s.server.Start(t)
		if err := <-published; err != nil {
			t.Fatal(err)
		}

		got = append(got, next(t, reader, 280)...)
		if want := keyIDs("a", 0, 300); !slices.Equal(ids(got), want) {
			t.Errorf("the reader got %v", ids(got))
		}
		nothing(t, reader)
		if got := ids(next(t, tail, 250)); !slices.Equal(got, keyIDs("a", 50, 300)) {
			t.Errorf("the tail got %v", got)
		}
		// A member's ack may be lost with the server, and then the message comes again.
		first := 2
		if err := held.Ack(ctx); err != nil {
			first = 1
		}
		for n := first; n < 10; n++ {
			d := take(t, group)
			if want := fmt.Sprint("a-", n); d.Event.ID != want {
				t.Fatalf("the member got %s, want %s", d.Event.ID, want)
			}
			ack(t, d)
		}
	})
}
