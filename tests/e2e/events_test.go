package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestEventsFromOutsideReachTheirReaders serves a table with an events route, sends the
// same facts twice, which the customers' read model counts once, and takes the route
// out again while the process runs.
func TestEventsFromOutsideReachTheirReaders(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile(filepath.Join(product.Root(), "cmd", "internal", "wire", "routes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "routes.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(string(table) + `
  - id: partner-orders
    kind: events
    match: POST /v1/partners/orders
    types: [shop.order.confirmed.v1]
    key: body.order_id
    guards: [{allow: 'event.source.startsWith("/partners/")'}]
`)
	dev, _ := start(t, []string{"COUNTERMAND_HTTP_ADDR=127.0.0.1:0", "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0"},
		"--data-dir", filepath.Join(t.TempDir(), "data"), "--routes", file)
	outside := product.NewShop(dev.HTTP)
	t.Cleanup(outside.Close)
	customer := "eve"
	send := func(source string, ids ...string) product.Answer {
		t.Helper()
		all := make([]string, len(ids))
		for i, id := range ids {
			all[i] = fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"shop.order.confirmed.v1","data":{"order_id":"01a20819-9e0d-8e70-8d0e-718%09d","customer":%q,"currency":"EUR","status":"confirmed","total":5}}`, id, source, i, customer)
		}
		answer, err := outside.Do(t.Context(), http.MethodPost, "/v1/partners/orders", "["+strings.Join(all, ",")+"]", "Content-Type: application/cloudevents-batch+json")
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	wantCode(t, send("/services/order", "a"), http.StatusForbidden, "refused")
	for range 2 {
		if answer := send("/partners/acme", "a", "b", "c"); answer.Status != http.StatusAccepted {
			t.Fatalf("answered %s", answer)
		}
	}
	customer = "mallory" // what comes after them, under the same keys
	if answer := send("/partners/acme", "d", "e", "f"); answer.Status != http.StatusAccepted {
		t.Fatalf("answered %s", answer)
	}
	confirmed := func(name string, want int64) error {
		customer, found, err := outside.Customer(t.Context(), name)
		if err == nil && (!found || customer.Confirmed != want) {
			err = fmt.Errorf("the read model has %+v of %s, want %d confirmed", customer, name, want)
		}
		return err
	}
	if err := product.Await(t.Context(), 20*time.Second, func() error { return confirmed("mallory", 3) }); err != nil {
		t.Fatal(err)
	}
	if err := confirmed("eve", 3); err != nil {
		t.Error(err)
	}
	write(string(table))
	err = product.Await(t.Context(), 20*time.Second, func() error {
		if answer := send("/partners/acme", "g"); answer.Status != http.StatusNotFound {
			return fmt.Errorf("the route still answers %s", answer)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
