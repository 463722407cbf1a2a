package e2e

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestAMixedLoadAddsUp has 16 clients place 200 orders of all kinds and compares
// every answer, and then stock and money to the last cent. It runs alone.
func TestAMixedLoadAddsUp(t *testing.T) {
	const orders, clients, seed = 200, 16, 7
	kinds := []struct {
		sku, token string
		share      int // of 100
		status     int
		code       string
	}{
		{"TEA-001", "tok_ok", 50, http.StatusCreated, ""},
		{"MUG-001", "tok_ok", 20, http.StatusCreated, ""},
		{"TEA-001", "tok_declined", 12, http.StatusPaymentRequired, "card_declined"},
		{"MUG-001", "tok_capture_fails", 8, http.StatusPaymentRequired, "capture_failed"},
		{"RARE-001", "tok_ok", 6, http.StatusConflict, "out_of_stock"}, // always more than there are
		{"NONE-404", "tok_ok", 4, http.StatusUnprocessableEntity, "unknown_sku"},
	}
	before := shelves(t)
	sagasBefore := sagaCount(t)

	random := rand.New(rand.NewPCG(seed, 0))
	sold := make(map[string]int64)
	var wait sync.WaitGroup
	places := make(chan struct{}, clients) // one for each client
	for range orders {
		kind := kinds[0]
		dice := random.IntN(100)
		for _, k := range kinds {
			if dice -= k.share; dice < 0 {
				kind = k
				break
			}
		}
		quantity := 1 + random.Int64N(5)
		if kind.code == "out_of_stock" {
			quantity = 6
		}
		if kind.code == "" {
			sold[kind.sku] += quantity
		}
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			answer, err := shop.Place(t.Context(), product.NewCheckout("load", kind.sku, quantity, kind.token).Body(), "Prefer: wait=30")
			if err != nil {
				t.Error(err)
				return
			}
			var p product.Problem
			if kind.code != "" {
				if err := answer.Decode(&p); err != nil {
					t.Error(err)
				}
			}
			if answer.Status != kind.status || p.Code != kind.code {
				t.Errorf("%d of %s with %s answered %s, want %d %s", quantity, kind.sku, kind.token, answer, kind.status, kind.code)
			}
		})
	}
	wait.Wait()

	for sku, was := range before {
		is := shelf(t, sku)
		if want := was.OnHand - sold[sku]; is.OnHand != want || is.Reserved != 0 || is.Available != want {
			t.Errorf("of %s %d were sold: it was %+v and is %+v", sku, sold[sku], was, is)
		}
	}
	if after := sagaCount(t); after != sagasBefore+orders {
		t.Errorf("there were %d sagas and are %d, want %d more", sagasBefore, after, orders)
	}
	faults, _, err := product.Audit(t.Context(), shop, operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
}
