package outbox_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
)

func (r *rig) writeAt(at time.Time, messages ...broker.Message) error {
	r.t.Helper()
	return pgx.BeginFunc(r.t.Context(), r, func(tx pgx.Tx) error { return outbox.WriteAt(r.t.Context(), tx, at, messages...) })
}

func TestDelayedEvents(t *testing.T) {
	t.Parallel()
	now := func(r *rig) time.Time { return read[time.Time](r, "select clock_timestamp()") }
	t.Run("come when they are due, by time and then as written, and never early", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		due := now(r).Add(1500 * time.Millisecond)
		early := make(chan bool, 10)
		r.broker.bend(nil, func() { early <- now(r).Before(due) })
		for _, one := range []struct {
			id    string
			after time.Duration
		}{{"c", time.Millisecond}, {"a", 0}, {"d", 2 * time.Millisecond}, {"b", 0}} {
			if err := r.writeAt(due.Add(one.after), message("k", one.id)); err != nil {
				t.Fatal(err)
			}
		}
		// Poll and Balance are long: it is the due time that wakes it.
		r.relay("relay", outbox.RelayConfig{Poll: time.Hour, Balance: time.Hour})
		r.await("all of them", func() bool { return len(r.broker.first()) == 4 })
		r.wantStored("a", "b", "c", "d")
		if <-early {
			t.Error("it came before its time")
		}
	})
	t.Run("come each at its own time when another one wakes the relay first", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		first := now(r).Add(300 * time.Millisecond)
		second := first.Add(600 * time.Millisecond)
		var early atomic.Bool
		r.broker.bend(func(m broker.Message) error {
			if m.PublishID == "second" && now(r).Before(second) {
				early.Store(true)
			}
			return nil
		}, nil)
		if err := errors.Join(r.writeAt(first, message("k", "first")), r.writeAt(second, message("k", "second"))); err != nil {
			t.Fatal(err)
		}
		r.relay("relay", outbox.RelayConfig{})
		r.await("both", func() bool { return len(r.broker.first()) == 2 })
		r.wantStored("first", "second")
		if early.Load() {
			t.Error("the second came before its time")
		}
	})
	t.Run("do not hold up or disturb the others", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		if err := r.writeAt(now(r).Add(time.Hour), message("a", "later")); err != nil {
			t.Fatal(err)
		}
		r.relay("relay", outbox.RelayConfig{})
		r.write(series("a", 0, 10)...)
		r.awaitEmpty()
		r.wantOrder(10)
		if n := read[int](r, "select count(*) from outbox_delayed"); n != 1 {
			t.Errorf("%d are delayed", n)
		}
	})
	t.Run("keep their order when there are more of them than one batch takes, and two relays", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		due := now(r).Add(300 * time.Millisecond)
		for _, key := range keys {
			for n := range 30 {
				if err := r.writeAt(due.Add(time.Duration(n)*time.Millisecond), series(key, n, n+1)...); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.relay("first", outbox.RelayConfig{BatchMax: 7})
		r.relay("second", outbox.RelayConfig{BatchMax: 7})
		r.await("all of them", func() bool { return len(r.broker.first()) == 30*len(keys) })
		r.wantOrder(30)
	})
	t.Run("are cancelled by id, and come once per id", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		due := now(r).Add(400 * time.Millisecond)
		for _, id := range []string{"kept", "cancelled"} {
			if err := r.writeAt(due, message("a", id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.writeAt(due, message("a", "kept")); !errors.Is(err, outbox.ErrDelayedExists) {
			t.Errorf("a second one: %v", err)
		}
		for _, want := range []bool{true, false} {
			tx := r.begin()
			if found, err := outbox.Cancel(t.Context(), tx, "cancelled"); err != nil || found != want {
				t.Errorf("cancel: %v, %v", found, err)
			}
			r.commit(tx)
		}
		r.relay("relay", outbox.RelayConfig{})
		r.await("an empty table", func() bool { return read[int](r, "select count(*) from outbox_delayed") == 0 })
		r.awaitEmpty()
		if got := r.broker.all(); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("published %q", got)
		}
	})
	t.Run("are not kept when their transaction rolls back, and are checked at once", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		tx := r.begin()
		if err := outbox.WriteAt(t.Context(), tx, now(r), message("a", "x")); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.writeAt(now(r), message("a", "")); !errors.Is(err, broker.ErrRejected) {
			t.Errorf("without an id: %v", err)
		}
		if n := read[int](r, "select count(*) from outbox_delayed"); n != 0 {
			t.Errorf("%d are delayed", n)
		}
	})
}
