package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestACustomersOrdersAddUp reads the read model, which follows the facts of the
// order service.
func TestACustomersOrdersAddUp(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"tok_ok", "tok_declined", "tok_ok", "tok_capture_fails"} {
		place(t, product.NewCheckout("Zoë & Söhne", "MUG-001", 1, token), "Prefer: wait=10")
	}
	err := product.Await(t.Context(), 10*time.Second, func() error {
		customer, _, err := shop.Customer(t.Context(), "Zoë & Söhne")
		if err == nil && (customer.Confirmed != 2 || customer.Cancelled != 2 || customer.Pending != 0 || customer.Spent["EUR"] != 2400) {
			err = fmt.Errorf("the customer is %+v, want 2 confirmed, 2 cancelled, none pending, 2400 EUR spent", customer)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
