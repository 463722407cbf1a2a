package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
)

// keys are of more than one lane.
var keys = []string{"a", "b", "c", "d", "e", "f", "g", "h"}

func TestRelaysShareLanes(t *testing.T) {
	t.Parallel()
	for what, leave := range map[string]func(*rig, func()){
		"stops":     func(_ *rig, stop func()) { stop() },
		"is killed": func(r *rig, _ func()) { r.kill("first") },
	} {
		t.Run("and when one "+what+" the other takes over in order", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			_, stop := r.relay("first", outbox.RelayConfig{BatchMax: 5})
			r.relay("second", outbox.RelayConfig{BatchMax: 5})
			r.await("a fair division", func() bool { return r.lanes("first") == 8 && r.lanes("second") == 8 })
			for n := 0; n < 40; n += 4 {
				for _, key := range keys {
					r.write(series(key, n, n+4)...)
				}
				if n == 20 {
					leave(r, stop)
				}
			}
			r.awaitEmpty()
			r.wantOrder(40)
			if n := len(r.broker.first()); n != 40*len(keys) {
				t.Errorf("%d messages", n)
			}
		})
	}
	t.Run("and a lane that is never empty does not starve the others", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		busy, quiet := keys[0], keys[0]
		for _, key := range keys {
			if broker.Partition(key, outbox.Lanes) < broker.Partition(busy, outbox.Lanes) {
				busy = key
			}
			if broker.Partition(key, outbox.Lanes) > broker.Partition(quiet, outbox.Lanes) {
				quiet = key
			}
		}
		r.write(series(busy, 0, 10)...)
		r.write(series(quiet, 0, 1)...)
		// Each batch brings as much to the busy lane as it took.
		n, refilled := 10, make(chan struct{})
		r.broker.bend(nil, func() {
			if n < 100 {
				r.write(series(busy, n, n+5)...)
				if n += 5; n == 100 {
					close(refilled)
				}
			}
		})
		r.relay("relay", outbox.RelayConfig{BatchMax: 5})
		<-refilled
		r.awaitEmpty()
		if at := slices.Index(r.broker.all(), quiet+"/0000"); at > 15 {
			t.Errorf("the quiet lane's message came as number %d", at)
		}
	})
}

func TestRelayFailures(t *testing.T) {
	t.Parallel()
	t.Run("one that dies between publish and delete makes duplicates only", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		killed := make(chan struct{})
		var once sync.Once
		r.broker.bend(nil, func() {
			once.Do(func() {
				r.kill("first")
				close(killed)
			})
		})
		r.relay("first", outbox.RelayConfig{})
		r.write(series("a", 0, 10)...)
		<-killed
		r.relay("second", outbox.RelayConfig{})
		r.awaitEmpty()
		r.wantOrder(10)
		if n := len(r.broker.all()); n != 20 {
			t.Errorf("%d messages, want each twice", n)
		}
	})
	t.Run("a broker that is away is waited for, and order holds", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		for _, key := range keys {
			r.write(series(key, 0, 10)...)
		}
		failures := 0
		r.broker.bend(func(broker.Message) error {
			if failures++; failures > 3 {
				return nil
			}
			return fmt.Errorf("%w: away", broker.ErrUnavailable)
		}, nil)
		relay, _ := r.relay("relay", outbox.RelayConfig{BatchMax: 12})
		relay.Wake()
		r.awaitEmpty()
		r.wantOrder(10)
		if n := len(r.broker.all()); n != 10*len(keys) {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("of a batch that is stored in part only the rest comes again", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.write(series("a", 0, 10)...)
		healed := false // under the broker's lock
		r.broker.bend(func(m broker.Message) error {
			if m.PublishID == "a/0004" && !healed {
				return broker.ErrUnavailable
			}
			return nil
		}, nil)
		r.relay("relay", outbox.RelayConfig{})
		r.await("the deletion of what is stored", func() bool { return read[int](r, "select count(*) from outbox") == 6 })
		r.broker.mu.Lock()
		healed = true
		r.broker.mu.Unlock()
		r.awaitEmpty()
		if got := r.broker.all(); len(got) != 10 || !slices.IsSorted(got) {
			t.Errorf("published %q", got)
		}
	})
	t.Run("what the broker never takes is set aside and other keys of the lane go on", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.write(series("a", 0, 5)...)
		r.write(series(sibling("a"), 0, 5)...)
		r.broker.bend(func(m broker.Message) error {
			if m.PublishID == "a/0004" {
				return fmt.Errorf("%w: because of \x00\xff", broker.ErrRejected)
			}
			return nil
		}, nil)
		r.relay("relay", outbox.RelayConfig{})
		r.awaitEmpty()
		if got := r.broker.all(); len(got) != 9 || !slices.IsSorted(got) {
			t.Errorf("published %q", got)
		}
		if got := read[string](r, "select publish_id || ': ' || error from outbox_dead"); got != "a/0004: message rejected by the broker: because of \uFFFD\uFFFD" {
			t.Errorf("set aside %q", got)
		}
	})
	t.Run("a row that cannot be read is set aside and the lane goes on", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.write(series("a", 0, 3)...)
		if _, err := r.Exec(t.Context(), `update outbox set attributes = '\xff00ff' where position('a/0000'::bytea in attributes) + position('a/0001'::bytea in attributes) > 0`); err != nil {
			t.Fatal(err)
		}
		r.relay("relay", outbox.RelayConfig{BatchMax: 1})
		r.awaitEmpty()
		r.wantStored("a/0002")
		if n := read[int](r, "select count(*) from outbox_dead where error <> ''"); n != 2 {
			t.Errorf("%d rows are set aside", n)
		}
	})
}

// sibling returns another key of the same lane.
func sibling(key string) string {
	for n := 0; ; n++ {
		if other := fmt.Sprint("z", n); broker.Partition(other, outbox.Lanes) == broker.Partition(key, outbox.Lanes) {
			return other
		}
	}
}

func TestRelayStopAndWake(t *testing.T) {
	t.Parallel()
	t.Run("what is committed is published before it stops", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		_, stop := r.relay("relay", outbox.RelayConfig{Poll: time.Hour, BatchMax: 10})
		r.await("the lanes", func() bool { return r.lanes("relay") == outbox.Lanes })
		r.write(message("a", "first"))
		r.write(series("a", 0, 30)...)
		stop()
		if n := read[int](r, "select count(*) from outbox"); n != 0 || len(r.broker.all()) != 31 {
			t.Errorf("%d rows are left, %d were published", n, len(r.broker.all()))
		}
	})
	t.Run("a broker that is away does not keep it from stopping", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.broker.bend(func(broker.Message) error { return broker.ErrUnavailable }, nil)
		r.write(series("a", 0, 3)...)
		_, stop := r.relay("relay", outbox.RelayConfig{})
		r.await("an attempt", func() bool { r.broker.mu.Lock(); defer r.broker.mu.Unlock(); return len(r.broker.batches) > 0 })
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("it took %s", took)
		}
		if n := read[int](r, "select count(*) from outbox"); n != 3 {
			t.Errorf("%d rows are left", n)
		}
	})
	t.Run("Wake beats Poll", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		relay, _ := r.relay("relay", outbox.RelayConfig{Poll: time.Hour})
		r.await("the lanes", func() bool { return r.lanes("relay") == outbox.Lanes })
		for n := range 5 {
			r.write(message("a", strconv.Itoa(n)))
			relay.Wake()
			r.awaitEmpty()
		}
	})
}

// The whole way once, to a real broker.
func TestRelayToJetStream(t *testing.T) {
	t.Parallel()
	r := setup(t)
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	reader, err := b.Tail(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	sent := message("a", "whole")
	sent.Event.CorrelationID, sent.Event.ReplyTo, sent.Event.Extensions = "saga", string(events.Replies), map[string]string{"extra": "ü"}
	empty := message("a", "empty")
	empty.Event.Data, empty.Event.DataContentType = nil, ""
	r.write(append(series("a", 0, 30), sent, empty)...)
	r.relayTo("relay", b, outbox.RelayConfig{})
	var got []broker.Delivery
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(got) < 32 {
		more, err := reader.Next(ctx, 100)
		if err != nil {
			t.Fatal(errors.Join(err, fmt.Errorf("%d deliveries", len(got))))
		}
		got = append(got, more...)
	}
	for i, want := range []events.Event{sent.Event, empty.Event} {
		if e := got[30+i].Event; fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", want) {
			t.Errorf("event %+v, want %+v", e, want)
		}
	}
	r.awaitEmpty()
}

// Most publish ids are that of the event, and not stored; one that is not must be kept,
// or the broker takes a command that is sent again for a copy.
func TestRelayPublishesUnderThePublishID(t *testing.T) {
	t.Parallel()
	r := setup(t)
	again := message("a", "1")
	again.PublishID = "1.again"
	r.write(message("a", "1"), again)
	if got := read[string](r, "select string_agg(publish_id, ' ' order by id) from outbox"); got != " 1.again" {
		t.Errorf("stored %q", got)
	}
	r.relay("relay", outbox.RelayConfig{})
	r.awaitEmpty()
	if got := r.broker.all(); !slices.Equal(got, []string{"1", "1.again"}) {
		t.Errorf("published %q", got)
	}
}
