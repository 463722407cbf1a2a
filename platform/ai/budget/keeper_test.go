package budget_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
)

func refusal(t *testing.T, err error) *budget.Refusal {
	t.Helper()
	var r *budget.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("%v is no refusal", err)
	}
	return r
}

func (r *rig) reserve(k *budget.Keeper) *budget.Reservation {
	r.Helper()
	res, err := k.Reserve(r.Context(), call())
	if err != nil {
		r.Fatal(err)
	}
	return res
}

func (r *rig) dispatch(res *budget.Reservation) *budget.Attempt {
	r.Helper()
	a, err := res.Dispatch(r.Context(), model)
	if err != nil {
		r.Fatal(err)
	}
	return a
}

func (r *rig) flush(k *budget.Keeper) {
	r.Helper()
	if err := k.Flush(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// Three nodes share a budget for ten calls that a thousand want to make at once.
func TestAThousandCallsAgainstABudgetForTen(t *testing.T) {
	t.Parallel()
	r := setup(t)
	nodes := []*node{r.node(budget.Config{}), r.node(budget.Config{}), r.node(budget.Config{})}
	r.put(nodes[0], month("ten", 10*mostCost+mostCost/2))
	r.put(nodes[0], budget.Budget{ID: "app", Tenant: "acme", App: "shop", Unit: budget.USD, Period: budget.Day, Limit: plenty})
	var made, refused atomic.Int64
	var calls sync.WaitGroup
	for i := range 1000 {
		calls.Go(func() {
			res, err := nodes[i%3].Reserve(t.Context(), call())
			if err != nil {
				if refusal(t, err).Code != budget.BudgetExhausted {
					t.Error(err)
				}
				refused.Add(1)
				return
			}
			defer res.Close()
			a, err := res.Dispatch(t.Context(), model)
			if err != nil {
				t.Error(err)
				return
			}
			made.Add(1)
			a.Settle(most, ai.Reported)
		})
	}
	calls.Wait()
	if made.Load() != 10 || refused.Load() != 990 {
		t.Errorf("%d calls were made and %d refused, want 10 and 990", made.Load(), refused.Load())
	}
	for _, n := range nodes {
		r.flush(n.Keeper)
	}
	r.balanced()
	if got := read[int64](r, "select count(*) from ai_ledger"); got != 10 {
		t.Errorf("the ledger has %d rows", got)
	}
	if got := read[int64](r, "select spent from ai_period where budget_id = 'ten'"); got != 10*mostCost {
		t.Errorf("%d is spent", got)
	}
	for _, n := range nodes {
		n.stop()
	}
	r.balanced()
	if got := read[int64](r, "select sum(reserved)::bigint from ai_period"); got != 0 {
		t.Errorf("%d stays reserved after all nodes have stopped", got)
	}
	if got := read[int](r, "select count(*) from outbox where topic = 'ai.budget.events'"); got != 2 { // 80% and exhausted
		t.Errorf("%d events about budgets, want 2", got)
	}
	if got := read[int](r, "select count(*) from outbox where topic = 'ai.usage.events'"); got != 10 {
		t.Errorf("%d events about usage, want 10", got)
	}
}

// Calls end in every way there is, on nodes that come and go, and die.
func TestTheBooksBalanceWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			random := rand.New(rand.NewPCG(seed, 7))
			config := budget.Config{ReclaimAfter: 50 * time.Millisecond, IdleAfter: 20 * time.Millisecond}
			nodes := []*node{r.node(config), r.node(config)}
			policy := []budget.OnUncertain{budget.Hold, budget.Charge, budget.Drop}[random.IntN(3)]
			limits := month("tenant", (20+random.Int64N(4000))*mostCost)
			limits.OnUncertain = policy
			r.put(nodes[0], limits)
			r.put(nodes[0], budget.Budget{ID: "key", Tenant: "acme", Key: "k1", Unit: budget.Tokens, Period: budget.Month, Limit: 200 * 2000, OnUncertain: policy})
			r.put(nodes[0], budget.Budget{ID: "requests", Unit: budget.Requests, Period: budget.Month, Limit: 300, OnUncertain: policy})
			var spent atomic.Int64
			var calls sync.WaitGroup
			for i := range 8 {
				own := rand.New(rand.NewPCG(seed, uint64(i)+100))
				calls.Go(func() {
					for range 60 {
						one(t, nodes[own.IntN(2)].Keeper, own, policy, &spent)
					}
				})
			}
			// One that is killed with calls in every state.
			dead := r.dead(config)
			for range 5 {
				if res, err := dead.Reserve(t.Context(), call()); err == nil {
					if a, err := res.Dispatch(t.Context(), model); err == nil && random.IntN(2) == 0 {
						a.Settle(ai.Usage{Input: 10}, ai.Reported)
					}
				}
			}
			calls.Wait()
			r.expire(dead)
			r.until("the dead node's leases are taken back", func() bool {
				return read[int](r, "select count(*) from ai_holder") <= 2
			})
			for _, n := range nodes {
				n.stop()
			}
			r.balanced()
			if got := read[int64](r, "select coalesce(sum(amount), 0)::bigint from ai_ledger"); got != spent.Load() {
				t.Errorf("the ledger has %d, what was settled is %d", got, spent.Load())
			}
			if open := read[int](r, "select count(*) from ai_attempt where state = 'dispatched'"); open != 0 {
				t.Errorf("%d attempts have no end", open)
			}
			if policy == budget.Drop {
				if got := read[int64](r, "select coalesce(sum(reserved), 0)::bigint from ai_period"); got != 0 {
					t.Errorf("%d stays reserved", got)
				}
			}
		})
	}
}

// one makes a call that ends somehow.
func one(t *testing.T, k *budget.Keeper, random *rand.Rand, policy budget.OnUncertain, spent *atomic.Int64) {
	res, err := k.Reserve(t.Context(), call())
	if err != nil {
		if code := refusal(t, err).Code; code != budget.BudgetExhausted && code != budget.RateLimited {
			t.Error(err)
		}
		return
	}
	defer res.Close()
	for range 1 + random.IntN(3) {
		a, err := res.Dispatch(t.Context(), model)
		if err != nil {
			refusal(t, err)
			break
		}
		if random.IntN(4) == 0 {
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond) // until it is written as dispatched
		}
		doubtful := func() {
			if policy == budget.Charge {
				spent.Add(mostCost)
			}
		}
		switch random.IntN(5) {
		case 0:
			a.Release("no connection")
			continue
		case 1:
			a.Uncertain("timeout", ai.Usage{Input: 5})
			doubtful()
			continue
		case 2:
			doubtful() // abandoned: the reservation is closed
		default:
			spent.Add(int64(a.Settle(ai.Usage{Input: random.Int64N(1000), Output: random.Int64N(1000)}, ai.Reported)))
			a.Release("too late")
			a.Uncertain("too late", ai.Usage{})
		}
		return
	}
}

func TestMostCallsNeedNoDatabase(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{IdleAfter: time.Minute})
	r.put(n, month("m", 100_000*mostCost))
	before := read[int64](r, "select pg_stat_get_db_xact_commit(oid) from pg_database where datname = current_database()")
	r.reserve(n.Keeper).Close()
	amount := read[int64](r, "select amount from ai_lease")
	for range 500 {
		res := r.reserve(n.Keeper)
		r.dispatch(res).Settle(ai.Usage{Input: 1}, ai.Reported)
		res.Close()
	}
	r.flush(n.Keeper)
	if got := read[int64](r, "select granted.amount - $1 from (select amount + (select spent from ai_period) as amount from ai_lease) granted", amount); got != 0 {
		t.Errorf("500 calls have leased %d more, on %d transactions before", got, before)
	}
	r.balanced()
}

func TestUnknownPriceIsRefusedWhereThereIsABudget(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", plenty))
	c := call()
	c.Targets = append(c.Targets, ai.Model{Provider: "openai", Name: "unheard-of"})
	_, err := n.Reserve(t.Context(), c)
	if got := refusal(t, err); got.Code != budget.PriceUnknown || got.HTTPStatus() != 422 {
		t.Errorf("%+v", got)
	}
	res := r.reserve(n.Keeper)
	defer res.Close()
	_, err = res.Dispatch(t.Context(), ai.Model{Provider: "openai", Name: "unheard-of"})
	if got := refusal(t, err); got.Code != budget.PriceUnknown {
		t.Errorf("%+v", got)
	}
	c.Caller = ai.Caller{Tenant: "other"}
	free, err := n.Reserve(t.Context(), c)
	if err != nil {
		t.Fatalf("a caller without a budget: %v", err)
	}
	a, err := free.Dispatch(t.Context(), ai.Model{Provider: "openai", Name: "unheard-of"})
	if err != nil {
		t.Fatal(err)
	}
	a.Settle(ai.Usage{Input: 7}, ai.Reported)
	free.Close()
	r.flush(n.Keeper)
	if got := read[int](r, "select count(*) from ai_attempt where cost is null and state = 'settled' and input = 7"); got != 1 {
		t.Error("the cost of what has no price is not unknown")
	}
	if got := read[int](r, "select unpriced from ai_usage_hourly where tenant = 'other'"); got != 1 {
		t.Error("the sums do not tell what has no price")
	}
	if got := read[int](r, "select count(*) from ai_ledger"); got != 0 {
		t.Error("what has no price is charged")
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, budget.Budget{ID: "rpm", Tenant: "acme", Unit: budget.Requests, Period: budget.Minute, Limit: 2})
	for range 20 { // of which one may straddle the minute
		at := time.Now()
		for range 2 {
			res := r.reserve(n.Keeper)
			a := r.dispatch(res)
			a.Release("no connection") // was asked for all the same
			r.dispatch(res).Settle(ai.Usage{Input: 1}, ai.Reported)
			res.Close()
		}
		_, err := n.Reserve(t.Context(), call())
		if err == nil && at.Minute() != time.Now().Minute() {
			continue
		}
		got := refusal(t, err)
		if got.Code != budget.RateLimited || got.HTTPStatus() != 429 || got.RetryAfter <= 0 || got.RetryAfter > time.Minute || got.Left != 0 || got.Limit != 2 {
			t.Errorf("%+v", got)
		}
		return
	}
}

func TestCapOfACall(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", plenty))
	c := call()
	c.Cap = 2*mostCost + 1
	res, err := n.Reserve(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	r.dispatch(res).Settle(most, ai.Reported)
	r.dispatch(res).Uncertain("timeout", ai.Usage{})
	_, err = res.Dispatch(t.Context(), model)
	if refusal(t, err).Code != budget.CallCap {
		t.Error(err)
	}
	if res.Cost() != mostCost || res.Attempts() != 2 {
		t.Errorf("cost %d, %d attempts", res.Cost(), res.Attempts())
	}
	c.Cap = mostCost - 1
	if _, err := n.Reserve(t.Context(), c); refusal(t, err).Code != budget.CallCap {
		t.Error(err)
	}
}

func TestAClosedReservationDispatchesNothing(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", plenty))
	res := r.reserve(n.Keeper)
	res.Close()
	res.Close()
	if _, err := res.Dispatch(t.Context(), model); err == nil {
		t.Error("it does")
	}
	n.stop()
	r.balanced()
	if got := read[int64](r, "select coalesce(sum(reserved), 0)::bigint from ai_period"); got != 0 {
		t.Errorf("%d stays reserved", got)
	}
}

func TestUnkept(t *testing.T) {
	t.Parallel()
	r := setup(t)
	k := budget.Unkept(r.prices)
	res := r.reserve(k)
	defer res.Close()
	if cost := r.dispatch(res).Settle(most, ai.Reported); cost != mostCost || res.Cost() != mostCost {
		t.Errorf("it costs %d", cost)
	}
}

func TestAContextThatHasEndedReservesNothing(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Reserve(ctx, call()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
