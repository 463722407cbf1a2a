package e2e

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

func TestAnOrderIsAccepted(t *testing.T) {
	t.Parallel()
	answer := place(t, product.NewCheckout("ada", "TEA-001", 2, "tok_ok"))

	if answer.Status != http.StatusAccepted {
		t.Fatalf("answered %s, want 202", answer)
	}
	if contentType := answer.Header.Get("Content-Type"); contentType != "application/json" {
		t.Errorf("Content-Type is %q, want application/json", contentType)
	}
	var body product.Accepted
	if err := answer.Decode(&body); err != nil {
		t.Fatal(err)
	}
	path := "/v1/operations/" + body.ID
	if body.ID == "" || body.Status != "accepted" || body.Links["self"] != path {
		t.Errorf("body is %s, want an id, status accepted and a link to %s", answer.Body, path)
	}
	if location := answer.Header.Get("Location"); location != path {
		t.Errorf("Location is %q, want %q", location, path)
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err != nil || seconds < 1 {
		t.Errorf("Retry-After is %q, want a number of seconds", answer.Header.Get("Retry-After"))
	}
	if operation := get(t, path); operation.Status != http.StatusOK {
		t.Errorf("the Location answers %s right after the 202, want 200", operation)
	}
	finished(t, body.ID, "completed")
}

func TestAnyCommandOfASagaIsAccepted(t *testing.T) {
	t.Parallel()
	body := product.NewCheckout("ada", "TEA-001", 1, "tok_ok").Body()
	answer := request(t, http.MethodPost, "/v1/commands/shop.checkout.request.v1", body, "Content-Type: application/json")
	finished(t, accepted(t, answer), "completed")

	for _, commandType := range []string{"shop.payment.capture.v1", "shop.inventory.reserve.v1", "no.such.command.v1"} {
		answer := request(t, http.MethodPost, "/v1/commands/"+commandType, body, "Content-Type: application/json")
		problem(t, answer, http.StatusNotFound, "unknown_command")
	}
}

func TestACompletedOperationTellsItsStepsAndResult(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 2, "tok_ok")))
	finished(t, id, "completed")

	answer := get(t, "/v1/operations/"+id)
	var op product.Operation
	if err := answer.Decode(&op); err != nil {
		t.Fatal(err)
	}
	if op.ID != id || op.Status != "completed" || !op.Done || op.Error != nil {
		t.Errorf("operation is %s", answer)
	}
	if op.Saga == nil || op.Saga.Name != "checkout" || op.Saga.Version < 1 {
		t.Errorf("saga is %+v, want checkout with its version", op.Saga)
	}
	if op.Result == nil || op.Result.OrderID != id || op.Result.Total != 900 || op.Result.Currency != "EUR" {
		t.Errorf("result is %+v, want order %s at 900 EUR", op.Result, id)
	}
	var names []string
	for _, step := range op.Steps {
		names = append(names, step.Name)
		if step.Status != "done" || step.Attempts < 1 {
			t.Errorf("step is %+v, want it done", step)
		}
	}
	want := []string{"create-order", "reserve-stock", "authorize-payment", "capture-payment", "commit-stock", "confirm-order"}
	if !slices.Equal(names, want) {
		t.Errorf("steps are %q, want %q", names, want)
	}
	if age := time.Since(op.CreatedAt); age < 0 || age > time.Minute || op.UpdatedAt.Before(op.CreatedAt) {
		t.Errorf("created %s and updated %s, want both just now and in order", op.CreatedAt, op.UpdatedAt)
	}
	if !strings.Contains(string(answer.Body), `"result"`) || strings.Contains(string(answer.Body), `"error"`) {
		t.Errorf("body is %s, want a result and no error", answer.Body)
	}
}

func TestACompensatedOperationTellsWhy(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_declined")))
	finished(t, id, "compensated")

	answer := get(t, "/v1/operations/"+id)
	var op product.Operation
	if err := answer.Decode(&op); err != nil {
		t.Fatal(err)
	}
	if !op.Done || op.Result != nil || op.Error == nil || op.Error.Code != "card_declined" || op.Error.Status != http.StatusPaymentRequired {
		t.Errorf("operation is %s, want it done with the error card_declined", answer)
	}
	want := map[string]string{
		"create-order": "compensated", "reserve-stock": "compensated", "authorize-payment": "rejected",
		"capture-payment": "pending", "commit-stock": "pending", "confirm-order": "pending",
	}
	for _, step := range op.Steps {
		if step.Status != want[step.Name] {
			t.Errorf("step %s is %s, want %s", step.Name, step.Status, want[step.Name])
		}
	}
}

// TestAnOperationNeverGoesBack looks at operations while they run: the status is
// always one of the contract's, and only moves on.
func TestAnOperationNeverGoesBack(t *testing.T) {
	t.Parallel()
	rank := map[string]int{"accepted": 0, "running": 1, "compensating": 2, "completed": 3, "compensated": 3}
	for _, token := range []string{"tok_ok", "tok_capture_fails", "tok_slow"} {
		t.Run(token, func(t *testing.T) {
			t.Parallel()
			id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, token)))
			var before product.Operation
			err := product.Await(t.Context(), endTimeout, func() error {
				answer := get(t, "/v1/operations/"+id)
				var op product.Operation
				if err := answer.Decode(&op); err != nil {
					t.Fatal(err)
				}
				now, known := rank[op.Status]
				switch {
				case answer.Status != http.StatusOK || !known:
					t.Fatalf("answered %s", answer)
				case now < rank[before.Status] || before.Done && op.Status != before.Status:
					t.Fatalf("status went from %s to %s", before.Status, op.Status)
				case op.Done != (now == 3):
					t.Fatalf("done is %v while the status is %s", op.Done, op.Status)
				case op.UpdatedAt.Before(before.UpdatedAt):
					t.Fatalf("updated_at went back from %s to %s", before.UpdatedAt, op.UpdatedAt)
				}
				before = op
				if !op.Done {
					return errStillRuns
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAnUnknownOperationIsNotFound(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok")))
	last := id[len(id)-1]
	other := byte('0')
	if last == other {
		other = '1'
	}
	for name, unknown := range map[string]string{
		"a UUID the gateway never gave":  "0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f",
		"one digit changed":              id[:len(id)-1] + string(other),
		"upper case":                     strings.ToUpper(id),
		"no UUID":                        "nonsense",
		"a UUID with something after it": id + "0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problem(t, get(t, "/v1/operations/"+unknown), http.StatusNotFound, "operation_not_found")
		})
	}
}
