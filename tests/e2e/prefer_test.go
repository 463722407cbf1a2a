package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

func TestAClientThatWaitsGetsTheOutcome(t *testing.T) {
	t.Parallel()
	answer := place(t, product.NewCheckout("ada", "MUG-001", 1, "tok_ok"), "Prefer: wait=5")

	if answer.Status != http.StatusCreated {
		t.Fatalf("answered %s, want 201", answer)
	}
	id := operationOf(t, answer)
	location := answer.Header.Get("Location")
	if location != "/v1/orders/"+id {
		t.Errorf("Location is %q, want the order", location)
	}
	if applied := answer.Header.Get("Preference-Applied"); applied != "wait=5" {
		t.Errorf("Preference-Applied is %q, want wait=5", applied)
	}
	var op product.Operation
	if err := answer.Decode(&op); err != nil {
		t.Fatal(err)
	}
	if op.Status != "completed" || op.ID != id || op.Result == nil || op.Result.Total != 1200 {
		t.Errorf("body is %s, want the completed operation", answer.Body)
	}
	order, found, err := shop.Order(t.Context(), id)
	if err != nil || !found || order.Status != "confirmed" || order.Total != 1200 {
		t.Errorf("order is %+v (found %v, error %v), want it confirmed at 1200", order, found, err)
	}
}

func TestAClientMayHaveItAsynchronous(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_slow"), "Prefer: respond-async")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s, want an answer at once", took)
	}
	if applied := answer.Header.Get("Preference-Applied"); applied != "respond-async" {
		t.Errorf("Preference-Applied is %q, want respond-async", applied)
	}
	finished(t, accepted(t, answer), "completed")
}

func TestAWaitThatEndsTooEarlyIsAnsweredAsAccepted(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_slow"), "Prefer: wait=1")
	id := accepted(t, answer)
	if took := time.Since(begin); took < time.Second || took > 2900*time.Millisecond {
		t.Errorf("it took %s, want about the second that was asked for", took)
	}
	if location := answer.Header.Get("Location"); location != "/v1/operations/"+id {
		t.Errorf("Location is %q, want the operation", location)
	}
	finished(t, id, "completed")
}

func TestAWaitIsCapped(t *testing.T) {
	t.Parallel()
	answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"), "Prefer: wait=9999")
	if applied := answer.Header.Get("Preference-Applied"); answer.Status != http.StatusCreated || applied != "wait=30" {
		t.Errorf("answered %s with Preference-Applied %q, want 201 and wait=30", answer, applied)
	}
}

func TestAPreferenceThatMakesNoSenseIsPassedOver(t *testing.T) {
	t.Parallel()
	for _, prefer := range []string{"wait=soon", "wait=-1", "handling=perhaps", `return="minimal"`} {
		answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"), "Prefer: "+prefer)
		if applied, given := answer.Header["Preference-Applied"]; given {
			t.Errorf("%s: Preference-Applied is %q, want none", prefer, applied)
		}
		finished(t, accepted(t, answer), "completed")
	}
}

// TestAReaderMayWaitForAnOperation long-polls: first for the end, then with the
// version it has, which is still the last.
func TestAReaderMayWaitForAnOperation(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_slow")))
	begin := time.Now()
	answer := get(t, "/v1/operations/"+id, "Prefer: wait=20")
	if !strings.Contains(string(answer.Body), `"status":"completed"`) {
		t.Fatalf("answered %s, want it completed", answer)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s, want the answer when the operation ended", took)
	}
	etag := answer.Header.Get("ETag")
	if etag == "" {
		t.Fatal("no ETag was given")
	}
	if again := get(t, "/v1/operations/"+id, "If-None-Match: "+etag); again.Status != http.StatusNotModified {
		t.Errorf("the same version is answered with %s, want 304", again)
	}
}
