package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

const guarded = `
version: 1
upstreams: {order: {url: "${ORDER_URL:-http://127.0.0.1:1}"}}
routes:
  - id: place-order
    kind: command
    match: POST /v1/orders
    command: shop.checkout.request.v1
    key: body.customer
    cancel: refused
    guards:
      - {allow: "body.items.size() < 2", code: too_many_items, status: 422, detail: One at a time.}
      - {allow: 'body.flag == "x" || identity.tenant != "strict"'}
    outcome: {completed: {status: 201, location: "/v1/orders/{result.order_id}", body: '{"order": result.order_id, "of": operation.id}'}}
  - {id: order, kind: proxy, match: "GET /v1/orders/{id}", upstream: order, guards: [{allow: 'request.params.id != "7" && !("x-test" in request.headers)'}]}
  - {id: decide, kind: signal, match: "POST /v1/orders/{id}/decision", signal: shop.review.decided.v1, to: shop.checkout.request.v1, guards: [{allow: body.approved}]}
`

func setupGuarded(t *testing.T, env map[string]string) *bundle {
	t.Helper()
	b := setup(t)
	table, err := gateway.ParseTable("routes.yaml", []byte(guarded), contracts(t), lookupIn(env))
	if err != nil {
		t.Fatal(err)
	}
	config := gateway.Config{Secret: []byte("a secret of enough bytes"), Logger: slog.New(slog.DiscardHandler)}
	b.gateway, err = gateway.New(config, table, gateway.Deps{Publisher: b.broker, Operations: b.operations, Lookup: b.broker.Lookup})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const twoItems = `{"customer":"ada","currency":"EUR","items":[{"sku":"A","quantity":1},{"sku":"B","quantity":1}],"payment":{"token":"tok_ok"}}`

func TestGuards(t *testing.T) {
	t.Parallel()
	reached := 0
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	t.Cleanup(service.Close)
	b := setupGuarded(t, map[string]string{"ORDER_URL": service.URL})
	for _, path := range []string{"/v1/orders", "/v1/commands/shop.checkout.request.v1"} { // the second is no way around
		if p := wantProblem(t, b.do(http.MethodPost, path, twoItems), http.StatusUnprocessableEntity, "too_many_items"); p.Detail != "One at a time." {
			t.Errorf("%s: detail %q", path, p.Detail)
		}
		strict := gateway.WithIdentity(t.Context(), gateway.Identity{Tenant: "strict"})
		wantProblem(t, b.doContext(strict, http.MethodPost, path, order), http.StatusForbidden, "refused") // flag is not there
	}
	wantProblem(t, b.do(http.MethodGet, "/v1/orders/7", ""), http.StatusForbidden, "refused")
	wantProblem(t, b.do(http.MethodGet, "/v1/orders/8", "", "X-Test: 1"), http.StatusForbidden, "refused")
	if reached != 0 || len(b.broker.messages()) != 0 {
		t.Fatalf("%d requests and %d commands got past their guards", reached, len(b.broker.messages()))
	}
	wantStatus(t, b.do(http.MethodGet, "/v1/orders/8", ""), http.StatusOK)
	id := decode[accepted](t, b.order()).ID
	wantProblem(t, b.do(http.MethodPost, "/v1/orders/"+id+"/decision", `{"approved":false}`), http.StatusForbidden, "refused")
	wantStatus(t, b.do(http.MethodPost, "/v1/orders/"+id+"/decision", `{"approved":true}`), http.StatusAccepted)
}

func TestABusinessKeyIsOneOperation(t *testing.T) {
	t.Parallel()
	b := setupGuarded(t, nil)
	first := decode[accepted](t, b.order()).ID
	again := b.do(http.MethodPost, "/v1/commands/shop.checkout.request.v1", order, "Idempotency-Key: other")
	wantStatus(t, again, http.StatusAccepted)
	wantHeader(t, again, "Idempotency-Replayed", "true")
	if id := decode[accepted](t, again).ID; id != first || len(b.broker.messages()) != 1 {
		t.Errorf("%s and %s, %d commands", first, id, len(b.broker.messages()))
	}
	other := strings.Replace(order, "TEA-001", "MUG-001", 1)
	wantProblem(t, b.do(http.MethodPost, "/v1/orders", other), http.StatusConflict, "business_key_in_use")
	b.project(first, gateway.StatusRunning, nil)
	wantProblem(t, b.do(http.MethodPost, "/v1/orders", other), http.StatusConflict, "business_key_in_use")
	acme := gateway.WithIdentity(t.Context(), gateway.Identity{Tenant: "acme", Client: "c1"})
	theirs := decode[accepted](t, b.doContext(acme, http.MethodPost, "/v1/orders", order)).ID
	sent := b.broker.messages()[1].Event
	if theirs == first || sent.Extension(events.TenantExtension) != "acme" || sent.Extension("clientid") != "c1" {
		t.Errorf("another tenant got %s, event %+v", theirs, sent)
	}
}

func TestAnotherTenantsOperationIsNotFound(t *testing.T) {
	t.Parallel()
	b := setupGuarded(t, nil)
	as := func(tenant string) context.Context {
		return gateway.WithIdentity(t.Context(), gateway.Identity{Tenant: tenant})
	}
	id := decode[accepted](t, b.doContext(as("acme"), http.MethodPost, "/v1/orders", order)).ID
	b.project(id, gateway.StatusRunning, nil)
	for _, request := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"GET", "/events"}} {
		w := b.doContext(as("other"), request[0], "/v1/operations/"+id+request[1], "")
		wantProblem(t, w, http.StatusNotFound, "operation_not_found")
	}
	wantStatus(t, b.doContext(as("acme"), http.MethodGet, "/v1/operations/"+id, ""), http.StatusOK)
	wantStatus(t, b.doContext(as("acme"), http.MethodGet, "/v1/operations", ""), http.StatusOK)
	if b.operations.filter.Tenant != "acme" {
		t.Errorf("listed with %+v", b.operations.filter)
	}
}

func TestCancelRefusals(t *testing.T) {
	t.Parallel()
	b := setupGuarded(t, nil)
	id := decode[accepted](t, b.order()).ID
	op := b.project(id, gateway.StatusRunning, nil)
	wantProblem(t, b.do(http.MethodDelete, "/v1/operations/"+id, ""), http.StatusConflict, "cancel_refused")
	op.Pivoted = true
	b.operations.set(op)
	wantProblem(t, b.do(http.MethodDelete, "/v1/operations/"+id, ""), http.StatusConflict, "past_pivot")
	if n := len(b.broker.messages()); n != 1 {
		t.Errorf("%d messages, want the command alone", n)
	}
}

// An outcome event is enough for a route that makes its body of the result: nothing
// is read for it.
func TestAnOutcomeEventAnswersWithoutARead(t *testing.T) {
	t.Parallel()
	b := setupGuarded(t, nil)
	looks := b.operations.lookUps() + 1 // whether the business key is known
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader := &fakeReader{deliveries: make(chan broker.Delivery, 1)}
	b.broker.then = func(id string) { reader.deliveries <- broker.Delivery{Event: events.Event{CorrelationID: id}} }
	listening := make(chan error, 1)
	go func() {
		listening <- b.gateway.ListenOutcomes(ctx, reader, func(e *events.Event) (gateway.Operation, bool) {
			return gateway.Operation{ID: e.CorrelationID, Status: gateway.StatusCompleted, Result: []byte(`{"order_id":"o/1"}`)}, true
		})
	}()
	w := b.order("Prefer: wait=20")
	wantStatus(t, w, http.StatusCreated)
	wantHeader(t, w, "Location", "/v1/orders/o%2F1")
	if body := decode[map[string]string](t, w); body["order"] != "o/1" || body["of"] == "" {
		t.Errorf("body %s", w.Body)
	}
	if n := b.operations.lookUps(); n != looks {
		t.Errorf("%d reads, want %d", n, looks)
	}
	cancel()
	if err := <-listening; err != nil {
		t.Error(err)
	}
}
