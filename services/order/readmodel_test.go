package order_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
)

// follow runs the read model.
func (r *rig) follow() {
	r.T.Helper()
	view, err := r.ReadModel(r.Broker, r.Logger)
	if err != nil {
		r.T.Fatal(err)
	}
	r.Run(view.Run)
}

// fact is an order fact as the service emits it.
func (r *rig) fact(contract events.Fact[shop.OrderChanged], id, customer, status string, total int64) events.Event {
	r.T.Helper()
	e, err := contract.New(events.NewID(), "/order", shop.OrderChanged{
		OrderID: id, Customer: customer, Currency: "EUR", Status: status, Total: total,
	}, time.Now())
	if err != nil {
		r.T.Fatal(err)
	}
	e.PartitionKey = id
	return e
}

func (r *rig) publish(facts ...events.Event) {
	r.T.Helper()
	for _, e := range facts {
		message := broker.Message{Topic: shop.OrderPlaced.Topic(), PublishID: events.NewID(), Event: e}
		if receipt := r.Broker.PublishBatch(r.T.Context(), []broker.Message{message})[0]; receipt.Err != nil {
			r.T.Fatal(receipt.Err)
		}
	}
}

func TestReadModelCountsAnEventThatComesTwiceOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	if err := r.Broker.Ensure(t.Context(), shop.OrderPlaced.Topic()); err != nil {
		t.Fatal(err)
	}
	id := events.NewID()
	placed := r.fact(shop.OrderPlaced, id, "ada", "pending", 0)
	confirmed := r.fact(shop.OrderConfirmed, id, "ada", "confirmed", 900)
	r.publish(placed, placed, confirmed, placed, confirmed, r.fact(shop.OrderPlaced, id, "last", "pending", 0))
	r.follow()
	r.Await(1, "select count(*) from customer_summary where customer = 'last'")
	status, body := r.get("/v1/customers/ada")
	spent, _ := body["spent"].(map[string]any)
	if status != http.StatusOK || body["pending"] != 0.0 || body["confirmed"] != 1.0 || spent["EUR"] != 900.0 {
		t.Errorf("%d %v", status, body)
	}
}

// A fact that cannot be counted does not hold the later ones back.
func TestReadModelSetsAsideWhatItCannotCount(t *testing.T) {
	t.Parallel()
	r := setup(t)
	if err := r.Broker.Ensure(t.Context(), shop.OrderPlaced.Topic()); err != nil {
		t.Fatal(err)
	}
	id := events.NewID()
	unreadable := r.fact(shop.OrderPlaced, id, "ada", "pending", 0)
	unreadable.Data = []byte("[]")
	unrelated := r.fact(shop.OrderPlaced, id, "ada", "pending", 0)
	unrelated.Type = "shop.order.archived.v1"
	r.publish(unreadable, r.fact(shop.OrderPlaced, id, "ada", "lost", 0), unrelated, r.fact(shop.OrderPlaced, id, "ada", "pending", 0))
	r.follow()
	r.Await(1, "select count(*) from customer_summary where customer = 'ada' and pending = 1")
	r.Await(2, "select count(*) from dead_letter where consumer = 'order-customers' and attempts = 1")

	// An operator mends one, and has it counted after all.
	letters := deadletter.NewStore("order", r.Pool)
	all, err := letters.List(t.Context(), deadletter.Filter{Error: "lost"}, 0, 10)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	_, number, _ := deadletter.ParseID(all[0].ID)
	order := deadletter.Order{By: "eve", Reason: "a typo"}
	if _, err := letters.Edit(t.Context(), number, r.fact(shop.OrderPlaced, id, "grace", "pending", 0), order); err != nil {
		t.Fatal(err)
	}
	if _, err := letters.Redrive(t.Context(), number, order); err != nil {
		t.Fatal(err)
	}
	r.Await(1, "select count(*) from customer_summary where customer = 'grace' and pending = 1")
	r.Await(1, "select count(*) from dead_letter_log where verb = 'handled'")
	if n := consumertest.Read[int](r.Rig, "select count(*) from dead_letter"); n != 1 {
		t.Errorf("%d letters are left", n)
	}
}

func TestReadModelForgetsOldFacts(t *testing.T) {
	t.Parallel()
	r := setup(t)
	_, err := r.Pool.Exec(t.Context(), `
		insert into customer_summary_seen (event_id, seen_at)
		select n::text, now() - case when n <= 2500 then interval '31 days' else interval '29 days' end
		from generate_series(1, 2510) as n`)
	if err != nil {
		t.Fatal(err)
	}
	r.follow()
	r.Await(1, "select count(*) from (select 1 from customer_summary_seen having count(*) = 10) as few")
}
