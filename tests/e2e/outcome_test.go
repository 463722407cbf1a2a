package e2e

import (
	"errors"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

var errStillRuns = errors.New("the operation still runs")

// TestARejectedOrderIsUndone runs alone, so that it can see on the shelf that
// nothing stays reserved.
func TestARejectedOrderIsUndone(t *testing.T) {
	inDollars := product.NewCheckout("ada", "TEA-001", 1, "tok_ok")
	inDollars.Currency = "USD"
	twoLines := product.NewCheckout("ada", "TEA-001", 2, "tok_ok")
	twoLines.Items = append(twoLines.Items, product.Item{SKU: "RARE-001", Quantity: 6})
	for name, test := range map[string]struct {
		order   product.Checkout
		status  int
		code    string
		payment string
	}{
		"card declined":   {product.NewCheckout("ada", "TEA-001", 3, "tok_declined"), http.StatusPaymentRequired, "card_declined", "declined"},
		"capture fails":   {product.NewCheckout("ada", "TEA-001", 3, "tok_capture_fails"), http.StatusPaymentRequired, "capture_failed", "voided"},
		"out of stock":    {product.NewCheckout("ada", "RARE-001", 6, "tok_ok"), http.StatusConflict, "out_of_stock", ""},
		"unknown sku":     {product.NewCheckout("ada", "NONE-404", 1, "tok_ok"), http.StatusUnprocessableEntity, "unknown_sku", ""},
		"other currency":  {inDollars, http.StatusUnprocessableEntity, "unsupported_currency", ""},
		"one of two skus": {twoLines, http.StatusConflict, "out_of_stock", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := shelves(t)
			answer := place(t, test.order, "Prefer: wait=10")

			p := problem(t, answer, test.status, test.code)
			if p.Retriable {
				t.Error("it is said to be retriable, but the same request will be refused again")
			}
			id := operationOf(t, answer)
			if p.Instance != "/v1/operations/"+id {
				t.Errorf("instance is %q, want the operation", p.Instance)
			}
			undone(t, id, test.payment)
			op := finished(t, id, "compensated")
			if op.Error == nil || op.Error.Code != test.code || op.Error.Status != test.status {
				t.Errorf("the operation's error is %+v, want %d %s", op.Error, test.status, test.code)
			}
			if after := shelves(t); !maps.Equal(after, before) {
				t.Errorf("the shelves were %+v and are %+v, want no change", before, after)
			}
		})
	}
}

func TestASlowPaymentCompletes(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_slow"), "Prefer: wait=15")
	took := time.Since(begin)
	if answer.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", answer)
	}
	if took < 3*time.Second || took > 6*time.Second {
		t.Errorf("it took %s, want about the processor's 3 s", took)
	}
}

func TestAPaymentThatNeverAnswersIsUndone(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_never"), "Prefer: wait=30")
	p := problem(t, answer, http.StatusGatewayTimeout, "payment_timeout")
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s, want less than 30 s", took)
	}
	id := operationOf(t, answer)
	undone(t, id, "voided")
	if p.Instance != "/v1/operations/"+id {
		t.Errorf("instance is %q, want the operation", p.Instance)
	}
}
