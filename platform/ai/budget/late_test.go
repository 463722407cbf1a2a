package budget_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
)

func TestAProcessThatDiesLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	r := setup(t)
	config := budget.Config{ReclaimAfter: 50 * time.Millisecond}
	alive := r.node(config)
	r.put(alive, month("m", 1000*mostCost))
	dead := r.dead(config)
	stored := r.reserve(dead)
	r.dispatch(stored)
	r.flush(dead)
	settled := r.dispatch(r.reserve(dead))
	settled.Settle(ai.Usage{Input: 100}, ai.Reported)
	r.flush(dead)
	lost := r.dispatch(r.reserve(dead)) // never written
	r.expire(dead)
	r.until("the process is taken for dead", func() bool {
		return read[int](r, "select count(*) from ai_attempt where state = 'uncertain'") == 2
	})
	r.balanced()
	open, err := alive.Uncertain(t.Context(), 10)
	if err != nil || len(open) != 2 {
		t.Fatalf("%+v, %v", open, err)
	}
	if open[0].CallID != stored.ID() || open[0].Most != mostCost || open[1].Operation != "lease" {
		t.Errorf("uncertain are %+v", open)
	}
	before := read[int64](r, "select spent + reserved from ai_period")

	// It was not dead, but slow: what it has to tell is written once, and nothing twice.
	lost.Settle(most, ai.Reported)
	r.flush(dead)
	r.balanced()
	if after := read[int64](r, "select spent + reserved from ai_period"); after != before {
		t.Errorf("a late settlement changes what is spent and reserved from %d to %d", before, after)
	}
	if got := read[int64](r, "select count(*) from ai_ledger"); got != 2 {
		t.Errorf("the ledger has %d rows, want 2", got)
	}
	dead.Late(time.Hour)
	if _, err := dead.Reserve(t.Context(), call()); refusal(t, err).Code != budget.Unavailable {
		t.Errorf("a process without leases lets a call through: %v", err)
	}

	// An operator finds out.
	cost := ai.NanoUSD(1234)
	if err := alive.Resolve(t.Context(), open[0].CallID, 1, &cost, "asked the provider"); err != nil {
		t.Fatal(err)
	}
	if err := alive.Resolve(t.Context(), open[1].CallID, 1, nil, "nothing was spent"); err != nil {
		t.Fatal(err)
	}
	if err := alive.Resolve(t.Context(), open[1].CallID, 1, nil, "again"); !errors.Is(err, budget.ErrEnded) {
		t.Errorf("resolved twice: %v", err)
	}
	if err := alive.Resolve(t.Context(), ai.NewCallID(), 1, nil, ""); !errors.Is(err, budget.ErrNotFound) {
		t.Errorf("resolved what is not there: %v", err)
	}
	alive.stop()
	r.balanced()
	if got := read[int64](r, "select reserved from ai_period"); got != 0 {
		t.Errorf("%d stays reserved", got)
	}
	if got, want := read[int64](r, "select spent from ai_period"), int64(50_000+mostCost+1234); got != want {
		t.Errorf("%d is spent, want %d", got, want)
	}
}

// A process that has not heard from the database for too long lets nothing through,
// from memory or otherwise, until it has.
func TestAProcessWhoseBeatIsLateRefusesCalls(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", 100_000*mostCost))
	k := r.dead(budget.Config{})
	r.reserve(k).Close() // it has a lease of a thousand calls in memory now
	k.Late(50 * time.Minute)
	r.reserve(k).Close()
	k.Late(55 * time.Minute)                                   // within the last tenth of the lease, for clocks do not run alike
	for _, tenant := range []string{caller.Tenant, "nobody"} { // who has no budget may have got one
		c := call()
		c.Caller.Tenant = tenant
		_, err := k.Reserve(t.Context(), c)
		if got := refusal(t, err); got.Code != budget.Unavailable || got.HTTPStatus() != 503 {
			t.Errorf("%s: %+v", tenant, got)
		}
	}
	if err := k.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.reserve(k).Close()
}

// The budget holds when a process wakes up after others have taken it for dead, and
// before it knows.
func TestAProcessThatWasTakenForDeadOvershootsNothing(t *testing.T) {
	t.Parallel()
	r := setup(t)
	alive := r.node(budget.Config{ReclaimAfter: 50 * time.Millisecond})
	r.put(alive, month("m", 10*mostCost+mostCost/2)) // leases are a bit larger than what is needed
	late := r.dead(budget.Config{})
	inFlight, before := r.dispatch(r.reserve(late)), r.reserve(late)
	r.expire(late)
	if _, err := late.Reserve(t.Context(), call()); refusal(t, err).Code != budget.Unavailable {
		t.Errorf("it gets more from the database: %v", err)
	}
	r.until("the process is taken for dead", func() bool { return read[int](r, "select count(*) from ai_holder") == 1 })
	made := 0
	for {
		res, err := alive.Reserve(t.Context(), call())
		if err != nil {
			if refusal(t, err).Code != budget.BudgetExhausted {
				t.Fatal(err)
			}
			break
		}
		r.dispatch(res).Settle(most, ai.Reported)
		res.Close()
		made++
	}
	inFlight.Settle(most, ai.Reported)
	r.dispatch(before).Settle(most, ai.Reported)
	before.Close()
	r.flush(late)
	r.flush(alive.Keeper)
	r.balanced()
	if made != 8 {
		t.Errorf("the others make %d calls, want the 8 for which nothing is held", made)
	}
	if got := read[int64](r, "select spent from ai_period"); got != 10*mostCost {
		t.Errorf("%d is spent", got)
	}
	if err := late.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Reserve(t.Context(), call()); refusal(t, err).Code != budget.BudgetExhausted {
		t.Error(err)
	}
}
