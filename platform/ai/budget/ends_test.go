package budget_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/postgres"
)

func TestTheFirstEndOfAnAttemptWins(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", plenty))
	ends := map[string]func(*budget.Attempt){
		"settled":   func(a *budget.Attempt) { a.Settle(most, ai.Reported) },
		"released":  func(a *budget.Attempt) { a.Release("no connection") },
		"uncertain": func(a *budget.Attempt) { a.Uncertain("timeout", ai.Usage{}) },
	}
	for first, end := range ends {
		for second, again := range ends {
			res := r.reserve(n.Keeper)
			a := r.dispatch(res)
			end(a)
			again(a)
			res.Close()
			r.flush(n.Keeper)
			if got := read[string](r, "select state from ai_attempt where call_id = $1", res.ID().String()); got != first {
				t.Errorf("%s and then %s is %s", first, second, got)
			}
			if cost := res.Cost(); (cost == mostCost) != (first == "settled") {
				t.Errorf("%s and then %s costs %d", first, second, cost)
			}
		}
	}
	n.stop()
	r.balanced()
	if got := read[int64](r, "select sum(spent)::bigint from ai_period"); got != 3*mostCost {
		t.Errorf("%d is spent", got)
	}
}

func TestWhatIsUncertainStaysHeld(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{IdleAfter: 10 * time.Millisecond})
	r.put(n, month("m", 3*mostCost))
	for range 2 {
		res := r.reserve(n.Keeper)
		r.dispatch(res).Uncertain("timeout", ai.Usage{})
		res.Close()
	}
	r.flush(n.Keeper)
	time.Sleep(30 * time.Millisecond) // what is idle goes back
	r.flush(n.Keeper)
	r.balanced()
	last := r.reserve(n.Keeper)
	defer last.Close()
	_, err := n.Reserve(t.Context(), call())
	if got := refusal(t, err); got.Code != budget.BudgetExhausted || got.Left != 0 {
		t.Errorf("%+v", got)
	}
}

func TestLimitsThatAreLoweredHoldAtOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{IdleAfter: time.Minute})
	r.put(n, month("m", 100_000*mostCost))
	r.reserve(n.Keeper).Close()
	r.put(n, month("m", 1))
	if _, err := n.Reserve(t.Context(), call()); refusal(t, err).Code != budget.BudgetExhausted {
		t.Error(err)
	}
	if err := n.Delete(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	r.known()
	r.reserve(n.Keeper).Close()
	if err := n.Delete(t.Context(), "m"); err == nil {
		t.Error("deleted twice")
	}
}

func TestABudgetKeepsItsUnitAndPeriod(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.dead(budget.Config{})
	b := month("m", 5)
	b.WarnAt = []int16{} // at nothing
	for range 2 {
		if err := n.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for _, change := range []func(*budget.Budget){
		func(b *budget.Budget) { b.Unit = budget.Tokens },
		func(b *budget.Budget) { b.Period = budget.Day },
	} {
		other := b
		change(&other)
		if err := n.Put(t.Context(), other); !errors.Is(err, budget.ErrInvalid) {
			t.Errorf("%s a %s becomes %s a %s: %v", b.Unit, b.Period, other.Unit, other.Period, err)
		}
	}
}

// Somebody may ask for as many tokens as there are numbers.
func TestACallOfAnySizeIsCountedAgainstTheBudget(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, budget.Budget{ID: "t", Unit: budget.Tokens, Period: budget.Month, Limit: 1_000_000})
	res := r.reserve(n.Keeper)
	defer res.Close()
	c := call()
	c.Most = ai.Usage{Output: math.MaxInt64}
	_, err := n.Reserve(t.Context(), c)
	if got := refusal(t, err); got.Code != budget.RateLimited {
		t.Errorf("%+v", got)
	}
}

// A limit that was raised can be exhausted again, which is news.
func TestEveryLimitThatIsExhaustedIsTold(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	for _, limit := range []int64{1, 2} {
		r.put(n, month("m", limit))
		for range 2 {
			if _, err := n.Reserve(t.Context(), call()); refusal(t, err).Code != budget.BudgetExhausted {
				t.Error(err)
			}
		}
	}
	ids := make(map[string]bool)
	for _, attributes := range read[[][]byte](r, "select array_agg(attributes) from outbox where topic = 'ai.budget.events' and publish_id = ''") {
		e, err := events.ParseAttributes(attributes, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[e.ID] = true
	}
	if len(ids) != 2 {
		t.Errorf("%d events, want one for each limit", len(ids))
	}
}

func TestReports(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", plenty))
	for range 3 {
		res := r.reserve(n.Keeper)
		r.dispatch(res).Settle(most, ai.Reported)
		res.Close()
	}
	r.flush(n.Keeper)
	now := time.Now().UTC()
	f := budget.UsageFilter{From: now.Add(-2 * time.Hour), To: now.Add(2 * time.Hour), Tenant: "acme", By: []string{"tenant", "model", "day"}}
	rows, err := n.Usage(t.Context(), f)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%+v, %v", rows, err)
	}
	if got := rows[0]; got.Settled != 3 || got.Cost != 3*mostCost || got.Model != "m" || got.Key != "" || got.At == nil || got.Usage.Input != 3000 {
		t.Errorf("%+v", got)
	}
	f.Tenant = "other"
	if rows, err := n.Usage(t.Context(), f); err != nil || len(rows) != 0 {
		t.Errorf("%+v, %v", rows, err)
	}
	f.By = []string{"colour"}
	if _, err := n.Usage(t.Context(), f); err == nil {
		t.Error("sums by colour")
	}
	found, err := n.Budgets(t.Context(), budget.Filter{Tenant: "acme"})
	if err != nil || len(found) != 1 || found[0].Spent != 3*mostCost || found[0].Budget.WarnAt[0] != 80 {
		t.Errorf("%+v, %v", found, err)
	}
	twice := month("again", 5)
	if err := n.Put(t.Context(), twice); err == nil {
		t.Error("two budgets for the same")
	}
	if err := n.Put(t.Context(), budget.Budget{ID: "B", App: "x", Unit: "eur", Period: "week", Limit: -1, OnUncertain: "guess", WarnAt: []int16{0}}); err == nil {
		t.Error("nonsense is a budget")
	}
}

func TestOldBooksAreDropped(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.dead(budget.Config{})
	for _, table := range []string{"ai_attempt", "ai_ledger", "ai_usage_hourly"} {
		bounds := "(ai_uuid_at('2020-01-01Z')) to (ai_uuid_at('2020-02-01Z'))"
		if table == "ai_usage_hourly" {
			bounds = "('2020-01-01Z') to ('2020-02-01Z')"
		}
		if _, err := r.pool.Exec(t.Context(), "create table "+table+"_202001 partition of "+table+" for values from "+bounds); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.pool.Exec(t.Context(), "insert into ai_period values ('m', '2020-01-01Z', '2020-01-01T00:01Z', 0, 0, null)"); err != nil {
		t.Fatal(err)
	}
	const old = "select count(*) from pg_class where relname ~ '^ai_.*_202001$'"
	// While another process is at it nothing is waited for, and nothing is done.
	err := postgres.InTx(t.Context(), r.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "select pg_advisory_xact_lock(hashtext('ai_partitions'))"); err != nil {
			return err
		}
		return n.Retain(t.Context())
	})
	if got := read[int](r, old); err != nil || got != 3 {
		t.Errorf("%d old partitions while another process is at it, %v", got, err)
	}
	if err := n.Retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read[int](r, old); got != 0 {
		t.Errorf("%d old partitions stay", got)
	}
	if got := read[int](r, "select count(*) from pg_inherits where inhparent = 'ai_ledger'::regclass"); got != 4 {
		t.Errorf("the ledger has %d partitions, want those of three months and the one for the rest", got)
	}
	if got := read[int](r, "select count(*) from ai_period"); got != 0 {
		t.Error("an old minute stays")
	}
	res := r.reserve(n)
	r.dispatch(res).Release("no connection")
	res.Close()
	r.flush(n)
	if got := read[int](r, "select count(*) from ai_attempt_default"); got != 0 {
		t.Error("a call is in no month")
	}
}
