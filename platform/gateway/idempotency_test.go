package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

func TestIdempotency(t *testing.T) {
	t.Parallel()
	other := strings.Replace(order, `"ada"`, `"bob"`, 1)

	// The engine either knows the first command already, or only the broker does.
	for name, project := range map[string]bool{"known to the engine": true, "known to the broker only": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			first := b.order("Idempotency-Key: k1")
			wantStatus(t, first, http.StatusAccepted)
			wantHeader(t, first, "Idempotency-Replayed", "")
			id := decode[accepted](t, first).ID
			if project {
				b.project(id, gateway.StatusRunning, nil)
			}
			for _, key := range []string{`k1`, `"k1"`, `"k\1"`} {
				if key == `"k\1"` {
					wantProblem(t, b.order("Idempotency-Key: "+key), 400, "idempotency_key_invalid")
					continue
				}
				again := b.order("Idempotency-Key: " + key)
				wantStatus(t, again, http.StatusAccepted)
				wantHeader(t, again, "Idempotency-Replayed", "true")
				if again.Body.String() != first.Body.String() || again.Header().Get("Location") != first.Header().Get("Location") {
					t.Errorf("the repeat is answered with %s, the first with %s", again.Body, first.Body)
				}
			}
			p := wantProblem(t, b.do(http.MethodPost, "/v1/orders", other, "Idempotency-Key: k1"), 422, "idempotency_key_reused")
			if p.Instance != "/v1/operations/"+id {
				t.Errorf("instance %q", p.Instance)
			}
			if n := len(b.broker.messages()); n != 1 {
				t.Errorf("%d messages", n)
			}
		})
	}

	t.Run("every replica derives the same id", func(t *testing.T) {
		t.Parallel()
		one, two := setup(t), setup(t)
		stranger := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.Secret = []byte("another secret of enough bytes") })
		id := func(b *bundle) string { return decode[accepted](t, b.order("Idempotency-Key: k1")).ID }
		if id(one) != id(two) || id(one) == id(stranger) {
			t.Errorf("ids %s, %s and of another secret %s", id(one), id(two), id(stranger))
		}
	})

	t.Run("a key belongs to its route", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		first := decode[accepted](t, b.order("Idempotency-Key: k1"))
		second := decode[accepted](t, b.do(http.MethodPut, "/v1/orders", order, "Idempotency-Key: k1"))
		third := decode[accepted](t, b.do(http.MethodPost, "/v1/commands/shop.checkout.request.v1", order, "Idempotency-Key: k1"))
		if first.ID == second.ID || second.ID == third.ID || len(b.broker.messages()) != 3 {
			t.Errorf("ids %s, %s, %s", first.ID, second.ID, third.ID)
		}
	})

	t.Run("a repeat that waits gets the final answer", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order("Idempotency-Key: k1")).ID
		b.project(id, gateway.StatusCompensated, &events.Rejection{Code: "card_declined", Message: "The bank said no."})
		again := b.order("Idempotency-Key: k1", "Prefer: wait=5")
		wantProblem(t, again, http.StatusPaymentRequired, "card_declined")
		wantHeader(t, again, "Idempotency-Replayed", "true")
		wantStatus(t, b.order("Idempotency-Key: k1"), http.StatusAccepted)
	})

	t.Run("a key that is required", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		wantProblem(t, b.do(http.MethodPut, "/v1/orders", order), 400, "idempotency_key_required")
		wantStatus(t, b.do(http.MethodPut, "/v1/orders", order, "Idempotency-Key: k1"), http.StatusAccepted)
	})

	t.Run("keys that are not valid", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		for _, key := range []string{
			"", `""`, `"`, `"k`, `k"`, `"k" "l"`, `"k";p=1`, "a b", "a,b", "k\x7f", "schlüssel", `"schlüssel"`, strings.Repeat("k", 256),
		} {
			wantProblem(t, b.order("Idempotency-Key: "+key), 400, "idempotency_key_invalid")
		}
		r := httptest.NewRequest(http.MethodPost, "/v1/orders", strings.NewReader(order))
		r.Header["Idempotency-Key"] = []string{"k1", "k1"}
		w := httptest.NewRecorder()
		b.gateway.ServeHTTP(w, r)
		wantProblem(t, w, 400, "idempotency_key_invalid")
		for _, key := range []string{`"a b"`, `"a\"b\\"`, "8e03978e-40d5-43dd-bc93-6894a57f9324", "YWJj+/==", strings.Repeat("k", 255)} {
			wantStatus(t, b.order("Idempotency-Key: "+key), http.StatusAccepted)
		}
	})

	t.Run("nothing is published while operations cannot be read", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.operations.fail(errors.New("connection to 10.1.2.3 refused"))
		w := b.order("Idempotency-Key: k1")
		if p := wantProblem(t, w, 503, "operations_unavailable"); !p.Retriable || strings.Contains(w.Body.String(), "10.1.2.3") {
			t.Errorf("problem %+v", p)
		}
		if n := len(b.broker.messages()); n != 0 {
			t.Errorf("%d messages", n)
		}
		wantStatus(t, b.order(), http.StatusAccepted) // needs no lookup
	})

	t.Run("an original that cannot be compared is not replayed", func(t *testing.T) {
		t.Parallel()
		for name, lookup := range map[string]error{"broker": broker.ErrUnavailable, "gone": broker.ErrNotFound} {
			b := setup(t, func(_ *gateway.Config, d *gateway.Deps) {
				d.Lookup = func(context.Context, events.Topic, int, uint64) (broker.Delivery, error) {
					return broker.Delivery{}, lookup
				}
			})
			b.order("Idempotency-Key: k1")
			if p := wantProblem(t, b.order("Idempotency-Key: k1"), 503, "broker_unavailable"); !p.Retriable {
				t.Errorf("%s: problem %+v", name, p)
			}
		}
	})
}

// TestConcurrentRepeats sends one keyed request 64 times at once, over the real
// committer, and then misuses the key.
func TestConcurrentRepeats(t *testing.T) {
	t.Parallel()
	store := &fakeBroker{}
	committer := broker.NewCommitter(store, 0)
	t.Cleanup(committer.Close)
	b := setup(t, func(_ *gateway.Config, d *gateway.Deps) { d.Publisher, d.Lookup = committer, store.Lookup })

	const callers = 64
	answers := make([]*httptest.ResponseRecorder, callers)
	var start, all sync.WaitGroup
	start.Add(1)
	for i := range callers {
		all.Go(func() {
			start.Wait()
			answers[i] = b.order("Idempotency-Key: k1")
		})
	}
	start.Done()
	all.Wait()

	replayed := 0
	ids := make(map[string]bool)
	for _, w := range answers {
		wantStatus(t, w, http.StatusAccepted)
		ids[decode[accepted](t, w).ID] = true
		if w.Header().Get("Idempotency-Replayed") == "true" {
			replayed++
		}
	}
	if len(ids) != 1 || replayed != callers-1 || len(store.messages()) != 1 {
		t.Errorf("%d ids, %d replays, %d messages", len(ids), replayed, len(store.messages()))
	}
	misuse := b.do(http.MethodPost, "/v1/orders", strings.Replace(order, "ada", "eve", 1), "Idempotency-Key: k1")
	wantProblem(t, misuse, 422, "idempotency_key_reused")
}
