package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/outbox/operate"
)

// refusing is a broker that refuses some messages until it is mended.
func (r *rig) refusing(ids ...string) (mend func()) {
	var mended atomic.Bool
	r.broker.bend(func(m broker.Message) error {
		if !mended.Load() && slices.Contains(ids, m.PublishID) {
			return fmt.Errorf("%w: too large", broker.ErrRejected)
		}
		return nil
	}, nil)
	return func() { mended.Store(true) }
}

// aside waits for that many rows that are set aside and returns them.
func (r *rig) aside(o *operate.Outbox, n int) (rows []operate.Row) {
	r.t.Helper()
	r.await(fmt.Sprint(n, " rows set aside"), func() bool { return read[int](r, "select count(*) from outbox_dead") == n })
	all, err := o.Stuck(r.t.Context(), 0, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(row operate.Row) bool { return row.State == operate.Waiting })
}

func number(t *testing.T, row operate.Row) int64 {
	t.Helper()
	_, id, ok := operate.ParseID(row.ID)
	if !ok {
		t.Fatalf("id %q", row.ID)
	}
	return id
}

var byAda = operate.Order{By: "ada", Reason: "ticket 1"}

func TestDeadRowsParkTheirKey(t *testing.T) {
	t.Parallel()
	for what, give := range map[string]struct {
		order func(o *operate.Outbox) func(id int64) (operate.Result, error)
		first int // of the key's rows that come
	}{
		"requeued": {func(o *operate.Outbox) func(int64) (operate.Result, error) {
			return func(id int64) (operate.Result, error) { return o.Requeue(t.Context(), id, byAda) }
		}, 2},
		"discarded": {func(o *operate.Outbox) func(int64) (operate.Result, error) {
			return func(id int64) (operate.Result, error) { return o.Discard(t.Context(), id, byAda) }
		}, 3},
	} {
		t.Run("until it is "+what+", and other keys go on", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			mend := r.refusing("a/0002")
			relay, _ := r.relay("relay", outbox.RelayConfig{})
			o := operate.New("test", r.Pool, relay)
			r.write(series("a", 0, 6)...)
			r.write(series("b", 0, 3)...)
			r.awaitEmpty()
			r.write(series("a", 6, 9)...) // when the key is parked already
			r.awaitEmpty()
			rows := r.aside(o, 7)
			if rows[0].State != operate.Dead || rows[1].State != operate.Parked || !strings.Contains(rows[1].Why, rows[0].ID) || !strings.Contains(rows[0].Error, "too large") {
				t.Errorf("%+v", rows[:2])
			}
			if got := r.broker.first(); len(got) != 5 {
				t.Errorf("published %q", got)
			}
			if _, err := o.Requeue(t.Context(), number(t, rows[1]), byAda); !isRefused(err, "outbox_row_parked") {
				t.Errorf("a parked one: %v", err)
			}
			mend()
			result, err := give.order(o)(number(t, rows[0]))
			if err != nil || result.Followers != 6 {
				t.Fatalf("%+v, %v", result, err)
			}
			r.awaitEmpty()
			r.write(series("a", 9, 10)...)
			r.awaitEmpty()
			var got []string
			for _, id := range r.broker.all() {
				if strings.HasPrefix(id, "a") {
					got = append(got, id)
				}
			}
			var want []string
			for n := range 10 {
				if n < 2 || n >= give.first {
					want = append(want, fmt.Sprintf("a/%04d", n))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("published %q, want %q", got, want)
			}
			r.aside(o, 0)
			if _, err := o.Get(t.Context(), number(t, rows[0])); !errors.Is(err, operate.ErrNotFound) || !strings.Contains(err.Error(), "ada") {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	t.Run("also for the relay that takes over", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		mend := r.refusing("a/0000")
		_, stop := r.relay("first", outbox.RelayConfig{})
		r.write(series("a", 0, 2)...)
		o := operate.New("test", r.Pool, nil)
		rows := r.aside(o, 2)
		stop()
		r.write(series("a", 2, 4)...)
		mend()
		r.relay("second", outbox.RelayConfig{})
		r.aside(o, 4)
		r.wantStored()
		if _, err := o.Requeue(t.Context(), number(t, rows[0]), byAda); err != nil {
			t.Fatal(err)
		}
		r.awaitEmpty()
		r.await("all of them", func() bool { return len(r.broker.first()) == 4 })
		r.wantOrder(4)
	})
	t.Run("one that is refused again holds them again", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.refusing("a/0000")
		relay, _ := r.relay("relay", outbox.RelayConfig{})
		o := operate.New("test", r.Pool, relay)
		r.write(series("a", 0, 3)...)
		for range 3 {
			if _, err := o.Requeue(t.Context(), number(t, r.aside(o, 3)[0]), byAda); err != nil {
				t.Fatal(err)
			}
			r.awaitEmpty()
		}
		r.aside(o, 3)
		r.wantStored()
	})
	t.Run("order holds while rows keep coming and the dead one is requeued", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		mend := r.refusing("a/0000")
		relay, _ := r.relay("relay", outbox.RelayConfig{Balance: time.Hour, BatchMax: 7, Poll: time.Millisecond})
		o := operate.New("test", r.Pool, relay)
		r.write(series("a", 0, 1)...)
		dead := number(t, r.aside(o, 1)[0])
		mend()
		for n := 1; n < 200; n++ {
			r.write(series("a", n, n+1)...)
			relay.Wake()
			if n == 60 {
				if _, err := o.Requeue(t.Context(), dead, byAda); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.await("all of them", func() bool { return len(r.broker.first()) == 200 })
		r.wantOrder(200)
	})
	t.Run("a dry run does nothing, and an order needs a reason", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.refusing("a/0000")
		r.relay("relay", outbox.RelayConfig{})
		o := operate.New("test", r.Pool, nil)
		r.write(series("a", 0, 2)...)
		id := number(t, r.aside(o, 2)[0])
		dry := byAda
		dry.DryRun = true
		if result, err := o.Discard(t.Context(), id, dry); err != nil || result.Followers != 1 {
			t.Errorf("%+v, %v", result, err)
		}
		if _, err := o.Discard(t.Context(), id, operate.Order{By: "ada"}); !isRefused(err, "reason_required") {
			t.Errorf("without a reason: %v", err)
		}
		if d, err := o.Get(t.Context(), id); err != nil || len(d.Log) != 0 || d.Event == nil {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func isRefused(err error, code string) bool {
	refused, ok := errors.AsType[*operate.RefusalError](err)
	return ok && refused.Code == code
}

func TestStatusAndFlush(t *testing.T) {
	t.Parallel()
	t.Run("tell what waits and why", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		o := operate.New("test", r.Pool, nil)
		r.write(series("a", 0, 3)...)
		rows, err := o.Stuck(t.Context(), 0, 2)
		if err != nil || len(rows) != 2 || rows[0].Key != "a" || !strings.Contains(rows[0].Why, "no relay owns its lane") {
			t.Errorf("without a relay: %+v, %v", rows, err)
		}
		if rows, err := o.Stuck(t.Context(), time.Hour, 2); err != nil || len(rows) != 0 {
			t.Errorf("older than an hour: %+v, %v", rows, err)
		}
		if f, err := o.Flush(t.Context(), 0); err != nil || f.Left != 3 {
			t.Errorf("flush: %+v, %v", f, err)
		}
		r.broker.bend(func(broker.Message) error { return fmt.Errorf("%w: away", broker.ErrUnavailable) }, nil)
		relay, _ := r.relay("relay", outbox.RelayConfig{})
		o = operate.New("test", r.Pool, relay)
		r.await("a failure", func() bool { return relay.State().Failure != "" })
		s, err := o.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lane := s.Lanes[broker.Partition("a", outbox.Lanes)]
		if s.Waiting != 3 || s.Oldest == nil || lane.Waiting != 3 || lane.Owner == nil || lane.Owner.Application != "relay" || !strings.Contains(s.Failure, "away") {
			t.Errorf("%+v, lane %+v", s, lane)
		}
		if rows, err := o.Stuck(t.Context(), 0, 1); err != nil || !strings.Contains(rows[0].Why, "away") {
			t.Errorf("%+v, %v", rows, err)
		}
		r.broker.bend(nil, nil)
		if f, err := o.Flush(t.Context(), patience); err != nil || f.Left != 0 {
			t.Errorf("flush: %+v, %v", f, err)
		}
	})
	t.Run("count no further than is quick", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		o := operate.New("test", r.Pool, nil)
		for _, fill := range []string{
			"insert into outbox (lane, publish_id, topic, attributes) select 1, n::text, 'a.events', '' from generate_series(1, $1) as n",
			"insert into outbox (lane, publish_id, topic, attributes) select 2, n::text, 'a.events', '' from generate_series(1, 7) as n where $1 > 0",
		} {
			if _, err := r.Exec(t.Context(), fill, outbox.CountMax+1); err != nil {
				t.Fatal(err)
			}
		}
		s, err := o.Status(t.Context())
		if err != nil || s.Waiting != outbox.CountMax+7 || s.Lanes[1].Waiting != outbox.CountMax || s.Lanes[2].Waiting != 7 || s.Lanes[0].Oldest != nil || s.Lanes[1].Oldest == nil {
			t.Errorf("%+v, %v", s, err)
		}
		if f, err := o.Flush(t.Context(), 0); err != nil || f.Left != outbox.CountMax {
			t.Errorf("flush: %+v, %v", f, err)
		}
	})
	t.Run("flush wakes the relay", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		relay, _ := r.relay("relay", outbox.RelayConfig{Poll: time.Hour})
		r.await("the lanes", func() bool { return r.lanes("relay") == outbox.Lanes })
		time.Sleep(20 * time.Millisecond) // so that it rests
		r.write(series("a", 0, 3)...)
		if f, err := operate.New("test", r.Pool, relay).Flush(t.Context(), patience); err != nil || f.Left != 0 {
			t.Errorf("%+v, %v", f, err)
		}
		r.wantOrder(3)
	})
}
