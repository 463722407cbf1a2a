package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// endTimeout is how long an operation may take to end where the contract names
// no shorter time.
const endTimeout = 30 * time.Second

// place posts an order to the shared shop and returns whatever it answers.
func place(t *testing.T, order product.Checkout, headers ...string) product.Answer {
	t.Helper()
	return post(t, order.Body(), headers...)
}

// post is place for any body.
func post(t *testing.T, body string, headers ...string) product.Answer {
	t.Helper()
	answer, err := shop.Place(t.Context(), body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// get reads a path of the public listener.
func get(t *testing.T, path string, headers ...string) product.Answer {
	t.Helper()
	return request(t, http.MethodGet, path, "", headers...)
}

func request(t *testing.T, method, path, body string, headers ...string) product.Answer {
	t.Helper()
	answer, err := shop.Do(t.Context(), method, path, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// accepted checks that the answer is a 202 and returns the id of its operation.
func accepted(t *testing.T, answer product.Answer) string {
	t.Helper()
	if answer.Status != http.StatusAccepted {
		t.Fatalf("answered %s, want 202", answer)
	}
	var body product.Accepted
	if err := answer.Decode(&body); err != nil {
		t.Fatal(err)
	}
	return body.ID
}

// operationOf returns the id of the operation that a final answer belongs to.
func operationOf(t *testing.T, answer product.Answer) string {
	t.Helper()
	link := answer.Header.Get("Link")
	path, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	id, found := strings.CutPrefix(path, "/v1/operations/")
	if !ok || !found || !strings.Contains(rest, `rel="status"`) {
		t.Fatalf("Link of %s is %q, want one to its operation", answer, link)
	}
	return id
}

// finished waits until the operation has ended, and checks how.
func finished(t *testing.T, id, status string) product.Operation {
	t.Helper()
	op, err := shop.Finished(t.Context(), id, endTimeout)
	if err != nil {
		t.Fatal(err)
	}
	if op.Status != status {
		t.Fatalf("operation %s ended %s (error %+v), want %s", id, op.Status, op.Error, status)
	}
	return op
}

// problem checks that the answer is a problem document of that status and code.
func problem(t *testing.T, answer product.Answer, status int, code string) product.Problem {
	t.Helper()
	if answer.Status != status {
		t.Fatalf("answered %s, want %d %s", answer, status, code)
	}
	if contentType := answer.Header.Get("Content-Type"); contentType != "application/problem+json" {
		t.Errorf("Content-Type is %q, want application/problem+json", contentType)
	}
	var p product.Problem
	if err := answer.Decode(&p); err != nil {
		t.Fatal(err)
	}
	if p.Code != code || p.Status != status || p.Title == "" || !strings.HasSuffix(p.Type, code) || p.Instance == "" {
		t.Errorf("problem %+v: want status %d, code %s, its type, a title and an instance", p, status, code)
	}
	return p
}

// undone checks that nothing is left of an order but the record of it.
func undone(t *testing.T, id, payment string) {
	t.Helper()
	order, found, err := shop.Order(t.Context(), id)
	if err != nil || !found || order.Status != "cancelled" {
		t.Errorf("order %s is %+v (found %v, error %v), want it cancelled", id, order, found, err)
	}
	charge, _, err := shop.Charge(t.Context(), id)
	if err != nil || charge.Status != payment {
		t.Errorf("payment of order %s is %+v (error %v), want status %q", id, charge, err, payment)
	}
}

// shelf reads the stock of a sku.
func shelf(t *testing.T, sku string) product.Stock {
	t.Helper()
	stock, err := shop.Stock(t.Context(), sku)
	if err != nil {
		t.Fatal(err)
	}
	return stock
}

// shelves reads the stock of every sku.
func shelves(t *testing.T) map[string]product.Stock {
	t.Helper()
	all := make(map[string]product.Stock)
	for sku := range product.Seeded {
		all[sku] = shelf(t, sku)
	}
	return all
}

// sagaCount returns how many sagas there are.
func sagaCount(t *testing.T) int {
	t.Helper()
	counts, err := operator.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return counts.All()
}
