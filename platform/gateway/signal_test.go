package gateway_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

const decision = `{"approved":true}`

// started places an order that the engine has taken up, and returns its id.
func started(b *bundle) string {
	b.t.Helper()
	id := decode[accepted](b.t, b.order()).ID
	b.project(id, gateway.StatusRunning, nil)
	return id
}

func decide(b *bundle, id, body string, headers ...string) int {
	b.t.Helper()
	return b.do(http.MethodPost, "/v1/orders/"+id+"/decision", body, headers...).Code
}

func TestASignalGoesToTheSagaThatItIsFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := started(b)
	w := b.do(http.MethodPost, "/v1/orders/"+id+"/decision", decision, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	wantStatus(t, w, http.StatusAccepted)
	wantHeader(t, w, "Location", "/v1/operations/"+id)
	if a := decode[accepted](t, w); a.ID != id || a.Status != "running" {
		t.Errorf("answered %s", w.Body)
	}
	sent := b.broker.messages()
	if len(sent) != 2 {
		t.Fatalf("%d messages, want the command and the signal", len(sent))
	}
	m := sent[1]
	e := m.Event
	if m.Topic != events.Signals || e.Type != "shop.review.decided.v1" || e.CorrelationID != id || e.PartitionKey != id ||
		string(e.Data) != decision || e.ID == id || e.ID != m.PublishID || e.TraceParent == "" {
		t.Errorf("the signal is %+v on %s", e, m.Topic)
	}
	if err := e.Validate(); err != nil {
		t.Error(err)
	}
}

func TestASignalForAnOperationThatIsNotShownYetIsAccepted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := decode[accepted](t, b.order()).ID
	if status := decide(b, id, decision); status != http.StatusAccepted {
		t.Errorf("status %d", status)
	}
	if n := len(b.broker.messages()); n != 2 {
		t.Errorf("%d messages", n)
	}
}

func TestASignalThatNothingWaitsForIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ended, another := started(b), started(b)
	b.project(ended, gateway.StatusCompleted, nil)
	b.operations.set(gateway.Operation{ID: another, Status: gateway.StatusRunning, Command: "shop.return.request.v1", UpdatedAt: time.Now()})
	running := started(b)
	before := len(b.broker.messages())
	for _, test := range []struct {
		what, id, body string
		status         int
		code           string
	}{
		{"an unknown operation", "0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f", decision, http.StatusNotFound, "operation_not_found"},
		{"no id", "nonsense", decision, http.StatusNotFound, "operation_not_found"},
		{"a saga of another kind", another, decision, http.StatusNotFound, "operation_not_found"},
		{"one that has ended", ended, decision, http.StatusConflict, "operation_ended"},
		{"a body against the schema", running, `{"approved":"yes"}`, http.StatusUnprocessableEntity, "invalid_request"},
		{"no JSON", running, `{`, http.StatusBadRequest, "malformed_json"},
	} {
		w := b.do(http.MethodPost, "/v1/orders/"+test.id+"/decision", test.body)
		if w.Code != test.status {
			t.Errorf("%s: status %d, want %d", test.what, w.Code, test.status)
			continue
		}
		wantProblem(t, w, test.status, test.code)
	}
	wantProblem(t, b.do(http.MethodPost, "/v1/orders/"+running+"/decision", decision, `Idempotency-Key: a b`), http.StatusBadRequest, "idempotency_key_invalid")
	if n := len(b.broker.messages()); n != before {
		t.Errorf("%d messages were sent", n-before)
	}
}

func TestASignalWithAKeyIsSentOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, other := started(b), started(b)
	for _, id := range []string{one, one, other} {
		if status := decide(b, id, decision, "Idempotency-Key: k1"); status != http.StatusAccepted {
			t.Errorf("status %d", status)
		}
	}
	if n := len(b.broker.messages()); n != 4 {
		t.Errorf("%d messages, want two commands and a signal for each", n)
	}
}

func TestASignalThatCannotBeSentSaysSo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := started(b)
	for _, test := range []struct {
		err    error
		status int
		code   string
	}{
		{broker.ErrOverloaded, http.StatusServiceUnavailable, "overloaded"},
		{broker.ErrUnavailable, http.StatusServiceUnavailable, "broker_unavailable"},
		{broker.ErrRejected, http.StatusInternalServerError, "internal_error"},
	} {
		b.broker.fail(test.err)
		wantProblem(t, b.do(http.MethodPost, "/v1/orders/"+id+"/decision", decision), test.status, test.code)
	}
	b.broker.fail(nil)
	b.operations.fail(errors.New("no database"))
	wantProblem(t, b.do(http.MethodPost, "/v1/orders/"+id+"/decision", decision), http.StatusServiceUnavailable, "operations_unavailable")
}
