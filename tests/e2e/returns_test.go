package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// bought places an order of those items and returns its id once it is confirmed.
func bought(t *testing.T, token string, items ...product.Item) string {
	t.Helper()
	answer := place(t, product.Checkout{Customer: "ret", Currency: "EUR", Items: items, Payment: product.Payment{Token: token}}, "Prefer: wait=20")
	if answer.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", answer)
	}
	return operationOf(t, answer)
}

// sendBack asks for a return and waits for its end.
func sendBack(t *testing.T, order string, items ...product.Item) product.Answer {
	t.Helper()
	body, err := json.Marshal(map[string]any{"order_id": order, "items": items, "reason": "does not fit"})
	if err != nil {
		t.Fatal(err)
	}
	return request(t, http.MethodPost, "/v1/returns", string(body), "Content-Type: application/json", "Prefer: wait=20")
}

func charge(t *testing.T, order string) product.Charge {
	t.Helper()
	c, _, err := shop.Charge(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func orderStatus(t *testing.T, id string) string {
	t.Helper()
	order, _, err := shop.Order(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return order.Status
}

// TestAnOrderIsReturnedInTwoParts runs alone, since it looks at shelves.
func TestAnOrderIsReturnedInTwoParts(t *testing.T) {
	before := shelves(t)
	order := bought(t, "tok_ok", product.Item{SKU: "TEA-001", Quantity: 3}, product.Item{SKU: "MUG-001", Quantity: 1})

	part := sendBack(t, order, product.Item{SKU: "TEA-001", Quantity: 1}, product.Item{SKU: "MUG-001", Quantity: 1}, product.Item{SKU: "TEA-001", Quantity: 1})
	if part.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", part)
	}
	id := operationOf(t, part)
	var op product.Operation
	if err := part.Decode(&op); err != nil {
		t.Fatal(err)
	}
	if r := op.Result; r == nil || r.ReturnID != id || r.OrderID != order || r.Refund != 2100 || r.Currency != "EUR" || r.OrderStatus != "partially_returned" {
		t.Errorf("the result is %+v", op.Result)
	}
	if location := part.Header.Get("Location"); location != "/v1/returns/"+id {
		t.Errorf("Location is %q", location)
	}
	if back, found, err := shop.Return(t.Context(), id); err != nil || !found || back.Status != "completed" || back.Refund != 2100 {
		t.Errorf("the return is %+v (found %v, error %v)", back, found, err)
	}
	if c := charge(t, order); c.Status != "captured" || c.Amount != 2550 || c.Refunded != 2100 {
		t.Errorf("the payment is %+v", c)
	}
	if status := orderStatus(t, order); status != "partially_returned" {
		t.Errorf("the order is %s", status)
	}

	if rest := sendBack(t, order, product.Item{SKU: "TEA-001", Quantity: 1}); rest.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", rest)
	}
	if c := charge(t, order); c.Refunded != 2550 {
		t.Errorf("the payment is %+v", c)
	}
	if status := orderStatus(t, order); status != "returned" {
		t.Errorf("the order is %s", status)
	}
	for sku, is := range shelves(t) {
		if is != before[sku] {
			t.Errorf("the shelf of %s is %+v and was %+v", sku, is, before[sku])
		}
	}
}

func TestReturnsThatAreRefused(t *testing.T) {
	t.Parallel()
	tea := product.Item{SKU: "TEA-001", Quantity: 1}
	order := bought(t, "tok_ok", tea)
	cancelled := operationOf(t, place(t, product.NewCheckout("ret", "TEA-001", 1, "tok_declined"), "Prefer: wait=20"))
	problem(t, sendBack(t, "0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f", tea), http.StatusNotFound, "unknown_order")
	problem(t, sendBack(t, cancelled, tea), http.StatusConflict, "order_not_confirmed")
	problem(t, sendBack(t, order, product.Item{SKU: "MUG-001", Quantity: 1}), http.StatusUnprocessableEntity, "item_not_ordered")
	problem(t, sendBack(t, order, product.Item{SKU: "TEA-001", Quantity: 2}), http.StatusUnprocessableEntity, "item_not_ordered")
	problem(t, sendBack(t, "nonsense", tea), http.StatusUnprocessableEntity, "invalid_request")
	problem(t, sendBack(t, order), http.StatusUnprocessableEntity, "invalid_request")
	if answer := sendBack(t, order, tea); answer.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", answer)
	}
	problem(t, sendBack(t, order, tea), http.StatusConflict, "already_returned")
	if c := charge(t, order); c.Refunded != 450 {
		t.Errorf("the payment is %+v", c)
	}
}

// TestAnItemThatIsNotTakenBackUndoesTheOthers returns three items of which the
// second is a voucher: the first is given up again, and nothing is paid.
func TestAnItemThatIsNotTakenBackUndoesTheOthers(t *testing.T) {
	before := shelves(t)
	order := bought(t, "tok_ok", product.Item{SKU: "TEA-001", Quantity: 1}, product.Item{SKU: "GIFT-001", Quantity: 1}, product.Item{SKU: "MUG-001", Quantity: 1})
	sold := shelves(t)
	answer := sendBack(t, order, product.Item{SKU: "TEA-001", Quantity: 1}, product.Item{SKU: "GIFT-001", Quantity: 1}, product.Item{SKU: "MUG-001", Quantity: 1})
	problem(t, answer, http.StatusUnprocessableEntity, "not_returnable")
	id := operationOf(t, answer)

	saga, err := operator.Saga(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, step := range saga.Steps {
		if strings.HasPrefix(step.Name, "restock-item") || step.Name == "open-return" {
			steps = append(steps, step.Name+" "+step.Status)
		}
	}
	want := []string{"open-return compensated", "restock-item[0] compensated", "restock-item[1] rejected", "restock-item[2] compensated"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps are %q, want %q", steps, want)
	}
	if c := charge(t, order); c.Refunded != 0 {
		t.Errorf("the payment is %+v", c)
	}
	if status := orderStatus(t, order); status != "confirmed" {
		t.Errorf("the order is %s", status)
	}
	for sku, is := range shelves(t) {
		if is != sold[sku] || is.OnHand > before[sku].OnHand {
			t.Errorf("the shelf of %s is %+v and was %+v", sku, is, sold[sku])
		}
	}
	// What was given up can come back without the voucher.
	if answer := sendBack(t, order, product.Item{SKU: "TEA-001", Quantity: 1}, product.Item{SKU: "MUG-001", Quantity: 1}); answer.Status != http.StatusCreated {
		t.Errorf("answered %s, want 201", answer)
	}
}

func TestARefundThatIsRefusedGivesTheGoodsUp(t *testing.T) {
	t.Parallel()
	tea := product.Item{SKU: "TEA-001", Quantity: 2}
	order := bought(t, "tok_refund_fails", tea)
	answer := sendBack(t, order, tea)
	problem(t, answer, http.StatusPaymentRequired, "refund_failed")
	if back, found, err := shop.Return(t.Context(), operationOf(t, answer)); err != nil || !found || back.Status != "cancelled" {
		t.Errorf("the return is %+v (found %v, error %v)", back, found, err)
	}
	if status := orderStatus(t, order); status != "confirmed" {
		t.Errorf("the order is %s", status)
	}
}
