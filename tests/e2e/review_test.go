package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// review is an order that may need approval.
func review(sku string, quantity int64, token, flag string) string {
	body, err := json.Marshal(map[string]any{
		"customer": "rev", "currency": "EUR", "flag": flag,
		"items": []product.Item{{SKU: sku, Quantity: quantity}}, "payment": product.Payment{Token: token},
	})
	if err != nil {
		panic(err) // it holds nothing that could fail
	}
	return string(body)
}

// reviewed posts an order for review and returns its id.
func reviewed(t *testing.T, body string) string {
	t.Helper()
	return accepted(t, request(t, http.MethodPost, "/v1/reviews", body, "Content-Type: application/json"))
}

func decide(t *testing.T, id, body string) product.Answer {
	t.Helper()
	return request(t, http.MethodPost, "/v1/reviews/"+id+"/decision", body, "Content-Type: application/json")
}

const (
	approve = `{"approved":true,"by":"grace","note":"known customer"}`
	decline = `{"approved":false,"by":"grace","note":"stolen card"}`
)

// waiting waits until the order waits for its decision, with the money held.
func waiting(t *testing.T, s product.Shop, o product.Operator, id string) {
	t.Helper()
	err := product.Await(t.Context(), endTimeout, func() error {
		saga, err := o.Saga(t.Context(), id)
		if err != nil {
			return err
		}
		status := make(map[string]string)
		for _, step := range saga.Steps {
			status[step.Name] = step.Status
		}
		if status["decision"] != "running" || status["authorize-payment"] != "done" {
			return fmt.Errorf("saga %s is %s with steps %v", id, saga.Status, status)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if c, _, err := s.Charge(t.Context(), id); err != nil || c.Status != "authorized" {
		t.Errorf("payment is %+v (error %v) while the order waits", c, err)
	}
}

func TestAnOrderThatIsApprovedIsFulfilled(t *testing.T) {
	t.Parallel()
	id := reviewed(t, review("MUG-001", 84, "tok_ok", ""))
	waiting(t, shop, operator, id)
	if status := orderStatus(t, id); status != "pending" {
		t.Errorf("the order is %s before the decision", status)
	}

	// The operator sees what it waits for, and finds it by its step.
	tree := countermand(t, "saga", "get", id)
	if !strings.Contains(tree.Stdout, "decision") || !strings.Contains(tree.Stdout, "running") {
		t.Errorf("the operator sees\n%s", tree.Stdout)
	}
	list := countermand(t, "saga", "list", "--definition", "review", "--status", "running", "-o", "json")
	var sagas []struct {
		ID    string   `json:"id"`
		Waits []string `json:"waits"`
	}
	if err := json.Unmarshal([]byte(list.Stdout), &sagas); err != nil {
		t.Fatalf("%v: %+v", err, list)
	}
	found := false
	for _, s := range sagas {
		found = found || s.ID == id && strings.Contains(strings.Join(s.Waits, " "), "decision")
	}
	if !found {
		t.Errorf("the list says %s", list.Stdout)
	}

	answer := decide(t, id, approve)
	if accepted(t, answer) != id || answer.Header.Get("Location") != "/v1/operations/"+id {
		t.Errorf("the decision is answered %s", answer)
	}
	op := finished(t, id, "completed")
	if r := op.Result; r == nil || r.OrderID != id || r.Total != 100800 || !r.Reviewed {
		t.Errorf("the result is %+v", op.Result)
	}
	if status := orderStatus(t, id); status != "confirmed" {
		t.Errorf("the order is %s", status)
	}
	if c := charge(t, id); c.Status != "captured" || c.Amount != 100800 {
		t.Errorf("the payment is %+v", c)
	}
	problem(t, decide(t, id, decline), http.StatusConflict, "operation_ended")
}

func TestAnOrderThatIsDeclinedIsUndone(t *testing.T) {
	t.Parallel()
	id := reviewed(t, review("TEA-001", 1, "tok_ok", "first order"))
	waiting(t, shop, operator, id)
	accepted(t, decide(t, id, decline))
	op := finished(t, id, "compensated")
	if op.Error == nil || op.Error.Code != "review_declined" || op.Error.Status != http.StatusForbidden || strings.Contains(op.Error.Detail, "stolen") {
		t.Errorf("the error is %+v", op.Error)
	}
	undone(t, id, "voided")
}

func TestASmallOrderNeedsNoDecision(t *testing.T) {
	t.Parallel()
	op := finished(t, reviewed(t, review("TEA-001", 1, "tok_ok", "")), "completed")
	if op.Result == nil || op.Result.Reviewed {
		t.Errorf("the result is %+v", op.Result)
	}
}

// TestADecisionThatComesBeforeItIsAwaitedIsKept decides while the order is not even
// created: a decision may overtake what it is about.
func TestADecisionThatComesBeforeItIsAwaitedIsKept(t *testing.T) {
	t.Parallel()
	for range 5 {
		id := reviewed(t, review("TEA-001", 1, "tok_slow", "first order"))
		accepted(t, decide(t, id, approve))
		if op := finished(t, id, "completed"); op.Result == nil || !op.Result.Reviewed {
			t.Errorf("the result is %+v", op.Result)
		}
	}
}

func TestACardThatIsDeclinedOrNotCapturedUndoesTheReview(t *testing.T) {
	t.Parallel()
	declined := finished(t, reviewed(t, review("TEA-001", 1, "tok_declined", "first order")), "compensated")
	if declined.Error == nil || declined.Error.Code != "card_declined" {
		t.Errorf("the error is %+v", declined.Error)
	}
	undone(t, declined.ID, "declined")

	id := reviewed(t, review("TEA-001", 1, "tok_capture_fails", "first order"))
	waiting(t, shop, operator, id)
	accepted(t, decide(t, id, approve))
	if op := finished(t, id, "compensated"); op.Error == nil || op.Error.Code != "capture_failed" {
		t.Errorf("the error is %+v", op.Error)
	}
	undone(t, id, "voided")
}

func TestDecisionsThatNothingWaitsFor(t *testing.T) {
	t.Parallel()
	checkout := accepted(t, place(t, product.NewCheckout("rev", "TEA-001", 1, "tok_ok")))
	finished(t, checkout, "completed")
	problem(t, decide(t, checkout, approve), http.StatusNotFound, "operation_not_found") // no review
	problem(t, decide(t, "0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f", approve), http.StatusNotFound, "operation_not_found")
	problem(t, decide(t, "nonsense", approve), http.StatusNotFound, "operation_not_found")

	id := reviewed(t, review("TEA-001", 1, "tok_ok", "first order"))
	waiting(t, shop, operator, id)
	problem(t, decide(t, id, `{"approved":true}`), http.StatusUnprocessableEntity, "invalid_request")
	accepted(t, decide(t, id, decline))
	finished(t, id, "compensated")
}

// A fulfilment takes money, so only a review may start one.
func TestNobodyStartsAFulfilmentFromOutside(t *testing.T) {
	t.Parallel()
	body := `{"order_id":"0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f","total":1}`
	answer := request(t, http.MethodPost, "/v1/commands/shop.fulfilment.request.v1", body, "Content-Type: application/json")
	problem(t, answer, http.StatusNotFound, "unknown_command")
}

// TestAnOrderThatNobodyLooksAtIsUndone runs a shop that gives a person two seconds.
func TestAnOrderThatNobodyLooksAtIsUndone(t *testing.T) {
	t.Parallel()
	process, _ := start(t, []string{"COUNTERMAND_HTTP_ADDR=127.0.0.1:0", "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0", "COUNTERMAND_REVIEW_WITHIN=2s"},
		"--data-dir", filepath.Join(t.TempDir(), "data"))
	hasty, admin := product.NewShop(process.HTTP), product.NewOperator(process.Admin)
	begin := time.Now()
	answer, err := hasty.Do(t.Context(), http.MethodPost, "/v1/reviews", review("MUG-001", 84, "tok_ok", ""), "Content-Type: application/json")
	if err != nil {
		t.Fatal(err)
	}
	id := accepted(t, answer)
	op, err := hasty.Finished(t.Context(), id, endTimeout)
	if err != nil || op.Status != "compensated" || op.Error == nil || op.Error.Code != "review_expired" || op.Error.Status != http.StatusGatewayTimeout {
		t.Fatalf("it ended %+v, error %v", op, err)
	}
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it ended after %s", took)
	}
	faults, _, err := product.Audit(t.Context(), hasty, admin)
	if err != nil || len(faults) > 0 {
		t.Errorf("the books do not balance: %q, error %v", faults, err)
	}
	if err := process.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAReviewTimeThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, within := range []string{"a day", "-1h"} {
		result, err := product.Run(t.Context(), binary, []string{"COUNTERMAND_REVIEW_WITHIN=" + within, "COUNTERMAND_HTTP_ADDR=127.0.0.1:0", "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0"},
			"dev", "--data-dir", filepath.Join(t.TempDir(), "data"))
		if err != nil {
			t.Fatal(err)
		}
		if result.Code == 0 || !strings.Contains(result.Stderr, "COUNTERMAND_REVIEW_WITHIN") {
			t.Errorf("%q ended %+v", within, result)
		}
	}
}
