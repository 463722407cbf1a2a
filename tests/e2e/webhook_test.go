package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestAWebhookHearsWhatBecomesOfAnOrder subscribes a receiver that verifies every request
// with the library of Standard Webhooks, on whichever broker the tests run.
func TestAWebhookHearsWhatBecomesOfAnOrder(t *testing.T) {
	t.Parallel()
	var (
		mu     sync.Mutex
		key    string
		heard  []string // types, of the orders of this test
		faults []string
	)
	const customer = "grace-of-the-webhooks"
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
			w.Header().Set("WebHook-Allowed-Rate", "*")
			return
		}
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		hook, keyErr := standardwebhooks.NewWebhook(key)
		if err == nil {
			err = keyErr
		}
		if err == nil {
			err = hook.Verify(body, r.Header)
		}
		if err != nil {
			faults = append(faults, err.Error())
		}
		if strings.Contains(string(body), customer) {
			heard = append(heard, r.Header.Get("Ce-Type"))
		}
	}))
	t.Cleanup(receiver.Close)

	mu.Lock() // nothing is verified before the key is known
	answer, err := shop.Do(t.Context(), http.MethodPost, "/v1/subscriptions", fmt.Sprintf(
		`{"protocol":"HTTP","sink":%q,"types":["shop.order.placed.v1","shop.order.confirmed.v1"],"config":{"order":"key"}}`, receiver.URL),
		"Content-Type: application/json")
	if err != nil || answer.Status != http.StatusCreated {
		mu.Unlock()
		t.Fatalf("%v, %v", answer, err)
	}
	var subscription struct {
		ID, State string
		Signing   []struct{ Secret string }
	}
	if err := json.Unmarshal(answer.Body, &subscription); err != nil {
		mu.Unlock()
		t.Fatal(err)
	}
	key = subscription.Signing[0].Secret
	mu.Unlock()
	path := "/v1/subscriptions/" + subscription.ID
	eventually(t, "the receiver agrees", func() bool {
		answer, err := shop.Do(t.Context(), http.MethodGet, path, "")
		return err == nil && strings.Contains(string(answer.Body), `"state":"active"`)
	})

	finished(t, accepted(t, place(t, product.NewCheckout(customer, "TEA-001", 1, "tok_ok"))), "completed")
	eventually(t, "the receiver hears of the order", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(heard) >= 2
	})
	mu.Lock()
	if want := []string{"shop.order.placed.v1", "shop.order.confirmed.v1"}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	if len(faults) > 0 {
		t.Errorf("not verified: %v", faults)
	}
	mu.Unlock()

	if run := countermand(t, "webhook", "deliveries", subscription.ID, "--state", "delivered"); !strings.Contains(run.Stdout, "shop.order.confirmed.v1") {
		t.Errorf("it prints %+v", run)
	}
	if answer, err := shop.Do(t.Context(), http.MethodDelete, path, ""); err != nil || answer.Status != http.StatusNoContent {
		t.Errorf("%v, %v", answer, err)
	}
}

// eventually waits for something to become true.
func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !true(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("this did not happen: %s", what)
		}
	}
}
