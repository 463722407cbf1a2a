package budget_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/postgres"
)

// unfenced lets every attempt be sent.
func unfenced(context.Context, pgx.Tx) error { return nil }

func TestHold(t *testing.T) {
	t.Parallel()
	r := setup(t)
	n := r.node(budget.Config{})
	r.put(n, month("m", 10*mostCost))
	id := uuid.New()
	hold := func(id uuid.UUID, amount int64) (err error) {
		return postgres.InTx(t.Context(), r.pool, func(tx pgx.Tx) error {
			_, err = n.Hold(t.Context(), tx, id, caller, map[budget.Unit]int64{budget.USD: amount}, time.Hour)
			return err
		})
	}
	if err := errors.Join(hold(id, 8*mostCost), hold(id, 8*mostCost)); err != nil {
		t.Fatal(err)
	}
	if err := hold(uuid.New(), 3*mostCost); refusal(t, err).Code != budget.BudgetExhausted {
		t.Error(err)
	}
	r.balanced()

	// A process makes a call on it and dies.
	res, err := n.Resume(t.Context(), id, call(), unfenced)
	if err != nil {
		t.Fatal(err)
	}
	r.dispatch(res).Release("no connection")
	r.dispatch(res)
	r.balanced()
	if got := read[int](r, "select count(*) from ai_attempt where state = 'dispatched'"); got != 1 {
		t.Fatalf("%d attempts are stored as dispatched", got)
	}
	err = postgres.InTx(t.Context(), r.pool, func(tx pgx.Tx) error {
		_, err := n.GiveUp(t.Context(), tx, res.ID(), "the worker has died")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.balanced()

	// Another call on the same hold settles together with its answer.
	res, err = n.Resume(t.Context(), id, call(), unfenced)
	if err != nil {
		t.Fatal(err)
	}
	r.dispatch(res).Settle(ai.Usage{Output: 10}, ai.Reported)
	store := func(fail error) error {
		return postgres.InTx(t.Context(), r.pool, func(tx pgx.Tx) error { return errors.Join(res.Store(t.Context(), tx), fail) })
	}
	if err := store(errors.New("rolled back")); err == nil {
		t.Fatal("it was committed")
	}
	if err := errors.Join(store(nil), store(nil)); err != nil {
		t.Fatal(err)
	}
	r.balanced()
	if got := read[int](r, "select count(*) from ai_ledger"); got != 1 {
		t.Errorf("the ledger has %d rows", got)
	}
	err = postgres.InTx(t.Context(), r.pool, func(tx pgx.Tx) error {
		there, err := n.Unhold(t.Context(), tx, id)
		again, err2 := n.Unhold(t.Context(), tx, id)
		if !there || again {
			t.Errorf("unhold tells %t, then %t", there, again)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.balanced()
	if got := read[int64](r, "select reserved from ai_period"); got != mostCost {
		t.Errorf("%d is reserved, want the %d of the uncertain attempt", got, mostCost)
	}
}
