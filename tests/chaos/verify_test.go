package chaos

import (
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// awaitEnd waits until the operation of every order has ended.
func awaitEnd(t *testing.T, orders []*order, shop product.Shop, timeout time.Duration) {
	t.Helper()
	const readers = 16
	end := time.Now().Add(timeout)
	next := make(chan *order)
	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			for o := range next {
				if _, err := shop.Finished(t.Context(), o.id, time.Until(end)); err != nil {
					t.Errorf("order %s: %v", o.key, err)
				}
			}
		})
	}
	for _, o := range orders {
		next <- o
	}
	close(next)
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// verify audits the shop and compares it with what the clients know: each order
// is one saga, each saga is an order, and ended as judge wants.
func verify(t *testing.T, orders []*order, shop product.Shop, operator product.Operator, judge func(*order, product.Saga) string) {
	t.Helper()
	faults, sagas, err := product.Audit(t.Context(), shop, operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
	counts := make(map[string]int)
	ids := make(map[string]bool)
	for _, o := range orders {
		s, found := sagas[o.id]
		switch {
		case ids[o.id]:
			t.Errorf("two orders are operation %s", o.id)
		case !found:
			t.Errorf("order %s was accepted as %s, of which there is no saga", o.key, o.id)
		case s.State.Customer != o.customer || len(s.State.Items) != 1 || s.State.Items[0] != product.Item{SKU: o.kind.sku, Quantity: o.quantity}:
			t.Errorf("order %s of %s has become %+v", o.key, o.customer, s.State)
		default:
			if fault := judge(o, s); fault != "" {
				t.Errorf("order %s, operation %s: %s", o.key, o.id, fault)
			}
		}
		ids[o.id] = true
		counts[s.Status]++
	}
	for id, s := range sagas {
		if !ids[id] {
			t.Errorf("saga %s of %s is of no order", id, s.State.Customer)
		}
	}
	t.Logf("%d orders ended: %v", len(orders), counts)
}
