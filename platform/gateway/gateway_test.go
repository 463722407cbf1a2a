package gateway_test

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/follow"
	"github.com/countermand/countermand/platform/gateway"
)

const routes = `
version: 1
upstreams:
  order: {url: "${ORDER_URL:-http://127.0.0.1:1}", timeout: 2s}
routes:
  - id: place-order
    kind: command
    match: POST /v1/orders
    command: shop.checkout.request.v1
    wait: {default: 0s, max: 30s}
    outcome:
      completed: {status: 201, location: "/v1/orders/{id}"}
      rejected: {card_declined: 402, out_of_stock: 409, unknown_sku: 422, payment_timeout: 504}
  - id: place-order-once
    kind: command
    match: PUT /v1/orders
    command: shop.checkout.request.v1
    idempotency: required
  - id: order
    kind: proxy
    match: GET /v1/orders/{id}
    upstream: order
  - id: note
    kind: proxy
    match: POST /v1/orders/{id}/notes
    upstream: order
  - id: decide
    kind: signal
    match: POST /v1/orders/{id}/decision
    signal: shop.review.decided.v1
    to: shop.checkout.request.v1
`

const order = `{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}`

//go:embed testdata/checkout.schema.json
var checkoutSchema []byte

// commands are a checkout, which starts a saga, and what its participants obey.
func commands(t testing.TB) []gateway.Command {
	t.Helper()
	all := []gateway.Command{{
		Type: "shop.checkout.request.v1", Topic: "shop.checkout.commands", Schema: checkoutSchema, Saga: true,
		Rejections: []events.Code{
			"unknown_sku", "out_of_stock", "unsupported_currency", "card_declined", "capture_failed", "payment_timeout",
		},
	}}
	all = append(all, gateway.Command{Type: "shop.audit.begin.v1", Topic: "shop.audit.commands", Schema: []byte(`{"type":"object"}`), Saga: true})
	for _, name := range []string{"shop.inventory.reserve.v1", "shop.inventory.release.v1", "shop.payment.capture.v1"} {
		all = append(all, gateway.Command{Type: name, Topic: events.CommandTopic(name), Schema: []byte(`{"type":"object"}`)})
	}
	return all
}

// signals are what a checkout could wait for.
func signals() []gateway.Signal {
	return []gateway.Signal{{
		Type:   "shop.review.decided.v1",
		Schema: []byte(`{"type":"object","properties":{"approved":{"type":"boolean"}},"required":["approved"],"additionalProperties":false}`),
	}}
}

// contracts are all of them.
func contracts(t testing.TB) gateway.Contracts {
	t.Helper()
	return gateway.Contracts{Commands: commands(t), Signals: signals()}
}

// bundle is a gateway between a fake broker and fake operations.
type bundle struct {
	t          testing.TB
	gateway    *gateway.Gateway
	broker     *fakeBroker
	operations *fakeOperations
	source     follow.Source // of streams; nil for most
}

func setup(t testing.TB, change ...func(*gateway.Config, *gateway.Deps)) *bundle {
	t.Helper()
	return setupWith(t, nil, change...)
}

func setupWith(t testing.TB, env map[string]string, change ...func(*gateway.Config, *gateway.Deps)) *bundle {
	t.Helper()
	table, err := gateway.ParseTable("routes.yaml", []byte(routes), contracts(t), lookupIn(env))
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{t: t, broker: &fakeBroker{}, operations: &fakeOperations{}}
	config := gateway.Config{Secret: []byte("a secret of enough bytes"), Logger: slog.New(slog.DiscardHandler)}
	deps := gateway.Deps{Publisher: b.broker, Operations: b.operations, Lookup: b.broker.Lookup}
	for _, change := range change {
		change(&config, &deps)
	}
	if b.gateway, err = gateway.New(config, table, deps); err != nil {
		t.Fatal(err)
	}
	return b
}

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

// do sends a request with headers given as "Name: value".
func (b *bundle) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.doContext(b.t.Context(), method, path, body, headers...)
}

func (b *bundle) doContext(ctx context.Context, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	b.gateway.ServeHTTP(w, r)
	return w
}

func (b *bundle) order(headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.do(http.MethodPost, "/v1/orders", order, headers...)
}

// decode reads a JSON body.
func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("body %q: %v", w.Body, err)
	}
	return v
}

type accepted struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Links  struct {
		Self string `json:"self"`
	} `json:"links"`
}

func wantStatus(t testing.TB, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	if w.Code != status {
		t.Fatalf("status %d, want %d; body %s", w.Code, status, w.Body)
	}
}

// wantProblem checks that w is a problem document of that status and code.
func wantProblem(t testing.TB, w *httptest.ResponseRecorder, status int, code string) gateway.Problem {
	t.Helper()
	wantStatus(t, w, status)
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	p := decode[gateway.Problem](t, w)
	if p.Code != code || p.Status != status || p.Type != "urn:countermand:problem:"+code || p.Title == "" {
		t.Errorf("problem %+v, want code %s and status %d", p, code, status)
	}
	return p
}

func wantHeader(t testing.TB, w *httptest.ResponseRecorder, name, want string) {
	t.Helper()
	if got := w.Header().Get(name); got != want {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}

// fakeBroker stores messages in one partition and knows duplicates for ever.
type fakeBroker struct {
	mu     sync.Mutex
	stored []broker.Message
	err    error           // what publishing fails with
	delay  func()          // runs before a message is stored
	then   func(id string) // runs after it is stored
}

func (b *fakeBroker) Publish(_ context.Context, m broker.Message) (broker.Receipt, error) {
	receipt := b.publish(m)
	return receipt, receipt.Err
}

func (b *fakeBroker) publish(m broker.Message) broker.Receipt {
	b.mu.Lock()
	err, delay, then := b.err, b.delay, b.then
	b.mu.Unlock()
	if delay != nil {
		delay()
	}
	if err != nil {
		return broker.Receipt{Err: err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, earlier := range b.stored {
		if earlier.PublishID == m.PublishID {
			return broker.Receipt{Duplicate: true, Offset: uint64(i)}
		}
	}
	b.stored = append(b.stored, m)
	if then != nil {
		then(m.PublishID)
	}
	return broker.Receipt{Offset: uint64(len(b.stored) - 1)}
}

func (b *fakeBroker) PublishTogether(ctx context.Context, messages []broker.Message) []broker.Receipt {
	return b.PublishBatch(ctx, messages)
}

func (b *fakeBroker) PublishBatch(_ context.Context, messages []broker.Message) []broker.Receipt {
	receipts := make([]broker.Receipt, len(messages))
	for i, m := range messages {
		receipts[i] = b.publish(m)
	}
	return receipts
}

func (b *fakeBroker) Lookup(_ context.Context, topic events.Topic, partition int, offset uint64) (broker.Delivery, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if offset >= uint64(len(b.stored)) {
		return broker.Delivery{}, broker.ErrNotFound
	}
	return broker.Delivery{Topic: topic, Partition: partition, Offset: offset, Event: b.stored[offset].Event}, nil
}

func (b *fakeBroker) messages() []broker.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]broker.Message(nil), b.stored...)
}

func (b *fakeBroker) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// fakeOperations are operations in a map.
type fakeOperations struct {
	mu    sync.Mutex
	known map[string]gateway.Operation
	err   error
	asked int

	filter gateway.OperationFilter // of the last list
	page   gateway.OperationPage   // what a list answers
}

func (o *fakeOperations) Get(ctx context.Context, id string) (gateway.Operation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if err := errors.Join(ctx.Err(), o.err); err != nil {
		return gateway.Operation{}, err
	}
	op, ok := o.known[id]
	if !ok {
		return gateway.Operation{}, gateway.ErrNotFound
	}
	return op, nil
}

func (o *fakeOperations) Changed(ctx context.Context, seen []gateway.Seen) ([]gateway.Operation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if err := errors.Join(ctx.Err(), o.err); err != nil {
		return nil, err
	}
	var changed []gateway.Operation
	for _, s := range seen {
		if op, ok := o.known[s.ID]; ok && op.Revision != s.Revision {
			changed = append(changed, op)
		}
	}
	return changed, nil
}

func (o *fakeOperations) List(_ context.Context, filter gateway.OperationFilter) (gateway.OperationPage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.filter = filter
	if o.err != nil {
		return gateway.OperationPage{}, o.err
	}
	return o.page, nil
}

func (o *fakeOperations) set(op gateway.Operation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = make(map[string]gateway.Operation)
	}
	op.Revision = o.known[op.ID].Revision + 1
	o.known[op.ID] = op
}

func (o *fakeOperations) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *fakeOperations) lookUps() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

// project makes the operation of a stored command known, as the engine would.
func (b *bundle) project(id string, status gateway.Status, rejection *events.Rejection) gateway.Operation {
	b.t.Helper()
	for _, m := range b.broker.messages() {
		if m.PublishID == id {
			op := gateway.Operation{
				ID: id, Status: status, Saga: &gateway.SagaVersion{Name: "checkout", Version: 1},
				Steps:     []gateway.StepProgress{{Name: "create-order", Status: "completed", Attempts: 1}},
				CreatedAt: time.Now(), UpdatedAt: time.Now(),
				Command: m.Event.Type, Fingerprint: m.Event.Extension("fingerprint"), Tenant: m.Event.Extension(events.TenantExtension), Rejection: rejection,
			}
			if status == gateway.StatusCompleted {
				op.Result = json.RawMessage(`{"order_id":"` + id + `","total":900,"currency":"EUR"}`)
			}
			b.operations.set(op)
			return op
		}
	}
	b.t.Fatalf("no command %s was published", id)
	return gateway.Operation{}
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
