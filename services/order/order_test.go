package order_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/services/order"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// rig is the service on a real database and a real broker.
type rig struct {
	*consumertest.Rig
	*order.Service
}

func setup(t *testing.T) *rig {
	t.Helper()
	r := &rig{}
	r.Rig = consumertest.New(t, consumertest.Config{
		Name: order.Name, Migrations: order.Migrations(),
		Handlers: func(parts *consumertest.Rig) []consumer.Handler {
			r.Service = order.New(parts.Pool, parts.Logger)
			return r.Handlers()
		},
	})
	return r
}

func (r *rig) create(id, customer string) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.CreateOrder, id, shop.CreateOrderRequest{
		OrderID: id, Customer: customer, Currency: "EUR", Items: []shop.Item{{SKU: "TEA-001", Quantity: 2}},
	})
}

func (r *rig) confirm(id string, total int64) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.ConfirmOrder, id, shop.ConfirmOrderRequest{OrderID: id, Total: total})
}

// cancel is the compensation of that command.
func (r *rig) cancel(id, undoes string) events.Event {
	r.T.Helper()
	e := consumertest.Command(r.T, shop.CancelOrder, id, shop.CancelOrderRequest{OrderID: id, Reason: "card_declined"})
	e.Undoes = undoes
	return e
}

func (r *rig) get(path string) (status int, body map[string]any) {
	r.T.Helper()
	recorder := httptest.NewRecorder()
	r.HTTP().ServeHTTP(recorder, httptest.NewRequestWithContext(r.T.Context(), http.MethodGet, path, nil))
	want := "application/json"
	if recorder.Code >= 400 {
		want = "application/problem+json"
	}
	if got := recorder.Header().Get("Content-Type"); got != want {
		r.T.Errorf("GET %s: content type %s, want %s", path, got, want)
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
		r.T.Fatal(err)
	}
	return recorder.Code, body
}

func (r *rig) status(id string) string {
	return consumertest.Read[string](r.Rig, "select status from orders where id = $1", id)
}

func TestAnOrderIsCreatedOnceAndConfirmed(t *testing.T) {
	t.Parallel()
	r := setup(t)
	id := events.NewID()
	create := r.create(id, "ada")
	for range 2 { // the second is a redelivery
		if reply, code := consumertest.Do[shop.OrderCreated](r.Rig, create); code != "" || reply.OrderID != id {
			t.Fatalf("reply %+v, code %q", reply, code)
		}
	}
	if status, body := r.get("/v1/orders/" + id); status != http.StatusOK || body["status"] != "pending" || body["total"] != nil {
		t.Errorf("%d %v", status, body)
	}
	for range 2 {
		if _, code := consumertest.Do[events.None](r.Rig, r.confirm(id, 900)); code != "" { // two commands, one effect
			t.Fatalf("code %q", code)
		}
	}
	status, body := r.get("/v1/orders/" + id)
	if status != http.StatusOK || body["status"] != "confirmed" || body["total"] != float64(900) || body["customer"] != "ada" {
		t.Errorf("%d %v", status, body)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r := setup(t)
	id := events.NewID()
	create := r.create(id, "ada")
	consumertest.Do[shop.OrderCreated](r.Rig, create)
	cancel := r.cancel(id, create.ID)
	for range 2 {
		if _, code := consumertest.Do[events.None](r.Rig, cancel); code != "" {
			t.Fatalf("code %q", code)
		}
	}
	if _, body := r.get("/v1/orders/" + id); body["status"] != "cancelled" || body["reason"] != "card_declined" {
		t.Errorf("%v", body)
	}
}

func TestCancelThatComesFirstKeepsTheLateOrderOut(t *testing.T) {
	t.Parallel()
	r := setup(t)
	id := events.NewID()
	create := r.create(id, "ada")
	if _, code := consumertest.Do[events.None](r.Rig, r.cancel(id, create.ID)); code != "" {
		t.Fatalf("code %q", code)
	}
	if _, code := consumertest.Do[shop.OrderCreated](r.Rig, create); code != "revoked" {
		t.Errorf("the late command was answered with %q", code)
	}
	if status, _ := r.get("/v1/orders/" + id); status != http.StatusNotFound {
		t.Errorf("the order is there: %d", status)
	}
}

func TestWhatCannotBeIsADeadLetter(t *testing.T) {
	t.Parallel()
	r := setup(t)
	id := events.NewID()
	create := r.create(id, "ada")
	consumertest.Do[shop.OrderCreated](r.Rig, create)
	consumertest.Do[events.None](r.Rig, r.cancel(id, create.ID))
	r.Send(r.confirm(id, 900))             // it is cancelled
	r.Send(r.confirm(events.NewID(), 900)) // it does not exist
	r.Send(r.create("no uuid", "ada"))
	r.Await(3, "select count(*) from dead_letter")
	if got := r.status(id); got != "cancelled" {
		t.Errorf("the order is %s", got)
	}
}

func TestReadModelCountsEachFactOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	view, err := r.ReadModel(r.Broker, r.Logger)
	if err != nil {
		t.Fatal(err)
	}
	r.Run(view.Run)
	confirmed, cancelled, pending := events.NewID(), events.NewID(), events.NewID()
	created := make(map[string]events.Event)
	for _, id := range []string{confirmed, cancelled, pending} {
		created[id] = r.create(id, "grace")
		consumertest.Do[shop.OrderCreated](r.Rig, created[id])
	}
	confirm := r.confirm(confirmed, 1350)
	for range 2 { // a repeated command repeats no fact
		consumertest.Do[events.None](r.Rig, confirm)
	}
	consumertest.Do[events.None](r.Rig, r.cancel(cancelled, created[cancelled].ID))
	r.Await(5, "select count(*) from customer_summary_seen")
	status, body := r.get("/v1/customers/grace")
	spent, _ := body["spent"].(map[string]any)
	if status != http.StatusOK || body["confirmed"] != 1.0 || body["pending"] != 1.0 || body["cancelled"] != 1.0 || spent["EUR"] != 1350.0 {
		t.Errorf("%d %v", status, body)
	}
}

func TestUnknownPathsAreProblems(t *testing.T) {
	t.Parallel()
	r := setup(t)
	for path, code := range map[string]string{
		"/v1/orders/" + events.NewID(): "order_not_found",
		"/v1/orders/nonsense":          "order_not_found",
		"/v1/customers/nobody":         "customer_not_found",
		"/v1/customers/%00":            "customer_not_found",
		"/":                            "not_found",
		"/v1/orders/" + strings.Repeat("x", 2000): "order_not_found",
	} {
		if status, body := r.get(path); status != http.StatusNotFound || body["code"] != code {
			t.Errorf("GET %.60s: %d %v, want %s", path, status, body["code"], code)
		}
	}
}
