package saga_test

import (
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/saga"
)

var landed = events.NewFact[struct{ Trip string }]("test.plane.landed.v1")

// A fact belongs to the saga that its payload names, whatever saga made somebody
// publish it; a signal of the same type belongs to the saga that it is sent to.
func TestAwaitedFactsAreFoundByTheirPayload(t *testing.T) {
	t.Parallel()
	d := define()
	d.Flow = saga.Sequence[trip]{
		saga.Await[trip]{
			Name: "landing", Timeout: time.Hour,
			For: saga.Event(landed, func(p struct{ Trip string }) string { return p.Trip }, func(*trip, struct{ Trip string }) {}),
		},
		alpha(),
	}
	b := newBench(t, d)
	all := ids(3)
	b.process(starts(t, all...)...)
	fact := func(topic events.Topic, trip, correlation string) broker.Delivery {
		e, err := landed.New(events.NewID(), "/test", struct{ Trip string }{trip}, dawn)
		if err != nil {
			t.Fatal(err)
		}
		e.CorrelationID = correlation
		return broker.Delivery{Topic: topic, Event: e}
	}
	b.process(fact(landed.Topic(), all[0], all[1]), fact(events.Signals, "nobody", all[2]), fact(landed.Topic(), ids(1)[0], ids(1)[0]))
	b.want(all[0], saga.Running, 2)
	b.wantSent(all[0], "alpha.do")
	b.want(all[1], saga.Running, 1)
	b.want(all[2], saga.Running, 2)
	if n := one[int](b, "select count(*) from dead_letter"); n != 0 {
		t.Errorf("%d dead letters because of a fact of somebody else's saga", n)
	}
}
