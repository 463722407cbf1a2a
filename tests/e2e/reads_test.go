package e2e

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

func TestTheShopShowsWhatItKnows(t *testing.T) {
	t.Parallel()
	answer := place(t, product.NewCheckout("grace", "MUG-001", 3, "tok_ok"), "Prefer: wait=10")
	if answer.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", answer)
	}
	id := operationOf(t, answer)

	order, found, err := shop.Order(t.Context(), id)
	if err != nil || !found || order.ID != id || order.Status != "confirmed" || order.Total != 3600 {
		t.Errorf("order is %+v (found %v, error %v), want %s confirmed at 3600", order, found, err, id)
	}
	charge, found, err := shop.Charge(t.Context(), id)
	if want := (product.Charge{Status: "captured", Amount: 3600, Currency: "EUR"}); err != nil || !found || charge != want {
		t.Errorf("payment is %+v (found %v, error %v), want %+v", charge, found, err, want)
	}
	for sku, most := range product.Seeded {
		stock := shelf(t, sku)
		if stock.SKU != sku || stock.Available != stock.OnHand-stock.Reserved || stock.Available < 0 || stock.OnHand > most {
			t.Errorf("stock is %+v, want %s with available = on_hand - reserved", stock, sku)
		}
	}
}

func TestWhatTheShopDoesNotKnowIsNotFound(t *testing.T) {
	t.Parallel()
	const unknown = "0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f"
	for _, path := range []string{
		"/v1/orders/" + unknown, "/v1/orders/nonsense", "/v1/payments/" + unknown, "/v1/payments/nonsense",
		"/v1/inventory/NONE-404", "/v1/inventory/a%20b",
	} {
		answer := get(t, path)
		var p product.Problem
		if err := answer.Decode(&p); err != nil || answer.Status != http.StatusNotFound || p.Status != http.StatusNotFound ||
			p.Code == "" || answer.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("GET %s answered %s with Content-Type %q (error %v), want a problem document with 404",
				path, answer, answer.Header.Get("Content-Type"), err)
		}
	}
}

// TestTheLastItemsAreSoldOnce has 16 customers after the five that are left. It
// runs alone: nobody else may take one meanwhile.
func TestTheLastItemsAreSoldOnce(t *testing.T) {
	left := shelf(t, "RARE-001").Available
	var sold, refused atomic.Int64
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			answer, err := shop.Place(t.Context(), product.NewCheckout("rare", "RARE-001", 1, "tok_ok").Body(), "Prefer: wait=20")
			switch {
			case err != nil:
				t.Error(err)
			case answer.Status == http.StatusCreated:
				sold.Add(1)
			case answer.Status == http.StatusConflict:
				refused.Add(1)
			default:
				t.Errorf("answered %s, want 201 or 409", answer)
			}
		})
	}
	wait.Wait()
	if sold.Load() != left || refused.Load() != 16-left {
		t.Errorf("%d were sold and %d refused, want %d and %d", sold.Load(), refused.Load(), left, 16-left)
	}
	if stock := shelf(t, "RARE-001"); stock.OnHand != 0 || stock.Reserved != 0 {
		t.Errorf("the shelf is %+v, want it empty", stock)
	}
}
