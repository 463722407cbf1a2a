package webhook_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/webhook"
)

func TestASubscriptionIsCreatedOnceUnderAKey(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	mine := r.client(false, gateway.Identity{Tenant: "acme", Client: "app"})
	body := fmt.Sprintf(`{"protocol":"HTTP","sink":%q}`, sink.URL)
	const key = "Idempotency-Key: k1"

	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		ids     = make(map[string]int)
		secrets = make(map[string]int)
		fresh   int
	)
	for range 5 { // at once
		all.Go(func() {
			w := mine.call("POST", "/v1/subscriptions", body, key)
			s := decode[webhook.Subscription](t, w)
			mu.Lock()
			defer mu.Unlock()
			ids[s.ID]++
			if len(s.Signing) == 1 {
				secrets[s.Signing[0].Secret]++
			}
			if w.Header().Get("Idempotency-Replayed") == "" {
				fresh++
			}
			if w.Code != http.StatusCreated || w.Header().Get("Location") != "/v1/subscriptions/"+s.ID {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	all.Wait()
	if len(ids) != 1 || len(secrets) != 1 || secrets[""] != 0 || fresh != 1 {
		t.Errorf("%d subscriptions, %d secrets, %d created", len(ids), len(secrets), fresh)
	}
	if list := decode[[]webhook.Subscription](t, mine.call("GET", "/v1/subscriptions", "")); len(list) != 1 {
		t.Fatalf("there are %d", len(list))
	}
	var id string
	for id = range ids {
	}

	wantCode := func(status int, code string, body string, headers ...string) {
		t.Helper()
		w := mine.call("POST", "/v1/subscriptions", body, headers...)
		if p := decode[gateway.Problem](t, w); w.Code != status || p.Code != code {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	}
	wantCode(http.StatusUnprocessableEntity, "idempotency_key_reused", body+" ", key)
	wantCode(http.StatusBadRequest, "idempotency_key_invalid", body, "Idempotency-Key: a b")
	for _, other := range []gateway.Identity{{Tenant: "acme", Client: "other"}, {Tenant: "other", Client: "app"}} {
		if s := decode[webhook.Subscription](t, r.client(false, other).call("POST", "/v1/subscriptions", body, key)); s.ID == "" || s.ID == id {
			t.Errorf("%+v got %+v", other, s)
		}
	}
	if _, err := r.pool.Exec(t.Context(), "update webhook_subscription set created_at = created_at - interval '25 hours' where id = $1", id); err != nil {
		t.Fatal(err)
	}
	if w := mine.call("POST", "/v1/subscriptions", body, key); strings.Contains(w.Body.String(), "whsec_") || w.Code != http.StatusCreated {
		t.Errorf("a day later: %d %s", w.Code, w.Body)
	}
	if w := mine.call("DELETE", "/v1/subscriptions/"+id, ""); w.Code != http.StatusNoContent {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantCode(http.StatusConflict, "subscription_state", body, key)
}
