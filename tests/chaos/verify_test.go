package chaos

import (
	"strings"
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
// is one saga, each saga is an order, and has ended as it had to.
func verify(t *testing.T, orders []*order, shop product.Shop, operator product.Operator) {
	t.Helper()
	faults, sagas, err := product.Audit(t.Context(), shop, operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
	ends := make(map[string]int)
	late := 0
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
		}
		ids[o.id] = true
		end := o.kind.status + " " + o.kind.code
		switch is := s.Status + " " + code(s); {
		case is == end:
		case s.Status == "compensated" && strings.HasSuffix(code(s), "timeout"): // honest, when a participant was away for long
			late++
			end = is
		default:
			t.Errorf("order %s, operation %s, ended %s, want %s", o.key, o.id, is, end)
		}
		ends[end]++
	}
	for id, s := range sagas {
		if !ids[id] {
			t.Errorf("saga %s of %s is of no order", id, s.State.Customer)
		}
	}
	if late > len(orders)/10 {
		t.Errorf("%d orders of %d timed out, which a short absence does not explain", late, len(orders))
	}
	t.Logf("%d orders ended: %v", len(orders), ends)
}

// code returns why a saga was compensated.
func code(s product.Saga) string {
	if s.Failure == nil {
		return ""
	}
	return s.Failure.Code
}
