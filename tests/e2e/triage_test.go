package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// noted is an order with a note.
func noted(item product.Item, note string) string {
	body, err := json.Marshal(map[string]any{
		"customer": "nora", "currency": "EUR", "note": note,
		"items": []product.Item{item}, "payment": product.Payment{Token: "tok_ok"},
	})
	if err != nil {
		panic(err) // it holds nothing that could fail
	}
	return string(body)
}

var tea = product.Item{SKU: "TEA-001", Quantity: 1}

// triaged returns what the books say of the reading of notes.
func triaged(t *testing.T) (sum aiUsage) {
	t.Helper()
	for _, row := range used(t, url.Values{"by": {"app"}, "tenant": {"shop"}, "app": {"review"}}) {
		sum = row
	}
	return sum
}

// standing is how the budget for reading notes stands.
type standing struct {
	Spent    int64 `json:"spent"`
	Reserved int64 `json:"reserved"`
}

const triageBudget = "/admin/v1/ai/budgets/e2e-triage"

// allow states what reading notes may cost in a day.
func allow(t *testing.T, nano int64) (s standing) {
	t.Helper()
	body := fmt.Sprintf(`{"tenant":"shop","app":"review","unit":"usd","period":"day","limit":%d}`, nano)
	operatorRead(t, http.MethodPut, triageBudget, body, &s)
	return s
}

// The notes of orders are read by the simulated model, and paid from one budget, so
// these come one after the other.
func TestNotesOfOrdersAreTriaged(t *testing.T) {
	t.Run("a harmless one needs nobody, and is paid for once however often the client asks", func(t *testing.T) {
		before := triaged(t)
		body := noted(tea, "harmless: please gift-wrap it")
		ids := make([]string, 4)
		var posts sync.WaitGroup
		for i := range ids {
			posts.Go(func() {
				answer, err := shop.Do(t.Context(), http.MethodPost, "/v1/reviews", body, asJSON, `Idempotency-Key: "note-1"`)
				if err != nil || answer.Status != http.StatusAccepted {
					t.Errorf("answered %s, %v", answer, err)
				}
				ids[i] = answer.Header.Get("Location")
			})
		}
		posts.Wait()
		id := strings.TrimPrefix(ids[0], "/v1/operations/")
		op := finished(t, id, "completed")
		if r := op.Result; r == nil || r.Triage != "harmless" || r.Reviewed {
			t.Errorf("the result is %+v", op.Result)
		}
		again := request(t, http.MethodPost, "/v1/reviews", body, asJSON, `Idempotency-Key: "note-1"`)
		for _, other := range append(ids, again.Header.Get("Location")) {
			if other != ids[0] {
				t.Errorf("one key makes the operations %v and %s", ids, other)
			}
		}
		after := triaged(t)
		if after.Settled != before.Settled+1 || after.Released != before.Released || after.Uncertain != 0 || after.Cost <= before.Cost {
			t.Errorf("the books have %+v and had %+v, want one call more", after, before)
		}
	})
	t.Run("one that hints at fraud is read by a person", func(t *testing.T) {
		id := reviewed(t, noted(tea, "fraud, or what else do you call it"))
		waiting(t, shop, operator, id)
		accepted(t, decide(t, id, approve))
		op := finished(t, id, "completed")
		if r := op.Result; r == nil || r.Triage != "fraud" || !r.Reviewed {
			t.Errorf("the result is %+v", op.Result)
		}
	})
	t.Run("one that nobody can pay to have read is read by a person", func(t *testing.T) {
		allow(t, 1)
		defer operatorAnswer(t, http.MethodDelete, triageBudget, "")
		before := triaged(t)
		id := reviewed(t, noted(tea, "harmless as well"))
		waiting(t, shop, operator, id)
		accepted(t, decide(t, id, approve))
		op := finished(t, id, "completed")
		if r := op.Result; r == nil || r.Triage != "unread: budget_exhausted" || !r.Reviewed {
			t.Errorf("the result is %+v", op.Result)
		}
		if after := triaged(t); after != before {
			t.Errorf("the books have %+v and had %+v", after, before)
		}
		// What is allowed later pays for the next note.
		allow(t, 1_000_000_000)
		op = finished(t, reviewed(t, noted(tea, "harmless again")), "completed")
		if r := op.Result; r == nil || r.Triage != "harmless" {
			t.Errorf("the result is %+v", op.Result)
		}
		after := triaged(t)
		if s := allow(t, 1_000_000_000); s.Spent != after.Cost-before.Cost || s.Spent == 0 || s.Reserved != 0 {
			t.Errorf("the budget is at %+v, and the call has cost %d", s, after.Cost-before.Cost)
		}
		// Money that is put by for an order that is undone goes back.
		op = finished(t, reviewed(t, noted(product.Item{SKU: "RARE-001", Quantity: 6}, "harmless too")), "compensated")
		if op.Error == nil || op.Error.Code != "out_of_stock" {
			t.Errorf("it ended with %+v", op.Error)
		}
		if s := allow(t, 1_000_000_000); s.Spent != after.Cost-before.Cost || s.Reserved != 0 {
			t.Errorf("the budget is at %+v after an order was undone", s)
		}
	})
}
