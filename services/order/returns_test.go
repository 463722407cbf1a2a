package order_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer/consumertest"
)

// sold is an order of two mugs and three teas, at that status.
func (r *rig) sold(status string) (id string) {
	r.T.Helper()
	id = events.NewID()
	create := consumertest.Command(r.T, shop.CreateOrder, id, shop.CreateOrderRequest{
		OrderID: id, Customer: "ada", Currency: "EUR",
		Items: []shop.Item{{SKU: "TEA-001", Quantity: 2}, {SKU: "MUG-001", Quantity: 2}, {SKU: "TEA-001", Quantity: 1}},
	})
	consumertest.Do[shop.OrderCreated](r.Rig, create)
	switch status {
	case "confirmed":
		consumertest.Do[events.None](r.Rig, r.confirm(id, 3750))
	case "cancelled":
		consumertest.Do[events.None](r.Rig, r.cancel(id, create.ID))
	}
	return id
}

func open(r *rig, id, order string, items ...shop.Item) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.OpenReturn, id, shop.OpenReturnRequest{ReturnID: id, OrderID: order, Items: items, Reason: "too many"})
}

func complete(r *rig, id string, refund int64) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.CompleteReturn, id, shop.CompleteReturnRequest{ReturnID: id, Refund: refund})
}

// drop is the compensation of that command.
func drop(r *rig, id string, undoes events.Event) events.Event {
	r.T.Helper()
	e := consumertest.Command(r.T, shop.CancelReturn, id, shop.CancelReturnRequest{ReturnID: id})
	e.Undoes = undoes.ID
	return e
}

func tea(n int64) shop.Item { return shop.Item{SKU: "TEA-001", Quantity: n} }
func mug(n int64) shop.Item { return shop.Item{SKU: "MUG-001", Quantity: n} }

func TestAnOrderComesBackInParts(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sold("confirmed")
	first, second := events.NewID(), events.NewID()

	opened := open(r, first, order, tea(1), mug(2), tea(1))
	for range 2 { // the second is a redelivery
		reply, code := consumertest.Do[shop.ReturnOpened](r.Rig, opened)
		if code != "" || reply.Customer != "ada" || reply.Currency != "EUR" {
			t.Fatalf("code %q, %+v", code, reply)
		}
	}
	if got := r.status(order); got != "confirmed" {
		t.Errorf("the order is %s while the return is open", got)
	}
	for _, e := range []events.Event{complete(r, first, 3300), complete(r, first, 3300)} { // two commands, one effect
		if reply, code := consumertest.Do[shop.ReturnCompleted](r.Rig, e); code != "" || reply.OrderStatus != "partially_returned" {
			t.Errorf("code %q, %+v", code, reply)
		}
	}
	if got := r.status(order); got != "partially_returned" {
		t.Errorf("the order is %s", got)
	}
	consumertest.Do[shop.ReturnOpened](r.Rig, open(r, second, order, tea(1)))
	if reply, code := consumertest.Do[shop.ReturnCompleted](r.Rig, complete(r, second, 450)); code != "" || reply.OrderStatus != "returned" {
		t.Errorf("code %q, %+v", code, reply)
	}
	if status, body := r.get("/v1/orders/" + order); status != http.StatusOK || body["status"] != "returned" || body["total"] != 3750.0 {
		t.Errorf("%d %v", status, body)
	}
	status, body := r.get("/v1/returns/" + first)
	items, _ := body["items"].([]any)
	if status != http.StatusOK || body["status"] != "completed" || body["refund"] != 3300.0 || body["order_id"] != order || len(items) != 2 {
		t.Errorf("%d %v", status, body)
	}
}

func TestReturnsThatCannotBe(t *testing.T) {
	t.Parallel()
	r := setup(t)
	confirmed, gone := r.sold("confirmed"), r.sold("confirmed")
	all, part := events.NewID(), events.NewID()
	consumertest.Do[shop.ReturnOpened](r.Rig, open(r, all, gone, tea(3), mug(2)))
	consumertest.Do[shop.ReturnCompleted](r.Rig, complete(r, all, 3750))
	consumertest.Do[shop.ReturnOpened](r.Rig, open(r, part, confirmed, tea(2))) // still open
	for _, test := range []struct {
		name  string
		order string
		items []shop.Item
		want  events.Code
	}{
		{"unknown order", events.NewID(), []shop.Item{tea(1)}, shop.UnknownOrder},
		{"pending order", r.sold("pending"), []shop.Item{tea(1)}, shop.OrderNotConfirmed},
		{"cancelled order", r.sold("cancelled"), []shop.Item{tea(1)}, shop.OrderNotConfirmed},
		{"another sku", confirmed, []shop.Item{mug(1), {SKU: "RARE-001", Quantity: 1}}, shop.ItemNotOrdered},
		{"more than were ordered", confirmed, []shop.Item{mug(3)}, shop.ItemNotOrdered},
		{"more than are left", confirmed, []shop.Item{tea(2)}, shop.AlreadyReturned},
		{"more in two lines", confirmed, []shop.Item{tea(1), mug(1), tea(1)}, shop.AlreadyReturned},
		{"an order that came back", gone, []shop.Item{tea(1)}, shop.AlreadyReturned},
		{"all that is left is fine", confirmed, []shop.Item{tea(1), mug(2)}, ""},
	} {
		id := events.NewID()
		e := open(r, id, test.order, test.items...)
		for range 2 {
			if _, code := consumertest.Do[shop.ReturnOpened](r.Rig, e); code != test.want {
				t.Errorf("%s: code %q, want %q", test.name, code, test.want)
			}
		}
		if status, _ := r.get("/v1/returns/" + id); (status == http.StatusOK) != (test.want == "") {
			t.Errorf("%s: GET answers %d", test.name, status)
		}
	}
}

func TestAReturnThatIsDroppedLeavesTheGoodsToOthers(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sold("confirmed")
	id := events.NewID()
	opened := open(r, id, order, tea(3), mug(2))
	consumertest.Do[shop.ReturnOpened](r.Rig, opened)
	undo := drop(r, id, opened)
	for _, e := range []events.Event{undo, undo, drop(r, id, opened)} {
		if _, code := consumertest.Do[events.None](r.Rig, e); code != "" {
			t.Errorf("code %q", code)
		}
	}
	if _, body := r.get("/v1/returns/" + id); body["status"] != "cancelled" {
		t.Errorf("%v", body)
	}
	again := events.NewID()
	if _, code := consumertest.Do[shop.ReturnOpened](r.Rig, open(r, again, order, tea(3), mug(2))); code != "" {
		t.Errorf("code %q", code)
	}
}

func TestADropThatComesFirstKeepsTheLateReturnOut(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sold("confirmed")
	id := events.NewID()
	late := open(r, id, order, tea(1))
	if _, code := consumertest.Do[events.None](r.Rig, drop(r, id, late)); code != "" {
		t.Errorf("code %q", code)
	}
	if _, code := consumertest.Do[shop.ReturnOpened](r.Rig, late); code != "revoked" {
		t.Errorf("the late command was answered with %q", code)
	}
	if status, _ := r.get("/v1/returns/" + id); status != http.StatusNotFound {
		t.Errorf("the return is there: %d", status)
	}
}

func TestReturnCommandsThatCanNeverWorkAreSetAside(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sold("confirmed")
	done, dropped := events.NewID(), events.NewID()
	consumertest.Do[shop.ReturnOpened](r.Rig, open(r, done, order, tea(1)))
	consumertest.Do[shop.ReturnCompleted](r.Rig, complete(r, done, 450))
	opened := open(r, dropped, order, tea(1))
	consumertest.Do[shop.ReturnOpened](r.Rig, opened)
	consumertest.Do[events.None](r.Rig, drop(r, dropped, opened))
	for _, e := range []events.Event{
		consumertest.Command(t, shop.CancelReturn, done, shop.CancelReturnRequest{ReturnID: done}), // it is completed
		complete(r, dropped, 450),        // it is cancelled
		complete(r, events.NewID(), 450), // there is none
		open(r, done, order, tea(1)),     // another command has opened it
		open(r, events.NewID(), order),   // no items
		open(r, "no uuid", order, tea(1)),
	} {
		r.Send(e)
	}
	r.Await(6, "select count(*) from dead_letter")
	if attempts := consumertest.Read[int](r.Rig, "select max(attempts) from dead_letter"); attempts != 1 {
		t.Errorf("one was tried %d times", attempts)
	}
}

// Returns of one order at the same time never take more than was ordered, whichever
// of them come through and whatever becomes of them.
func TestReturnsAtTheSameTimeTakeEachPieceOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sold("confirmed")
	r.Feed()
	var wait sync.WaitGroup
	sent := make([]events.Event, 12)
	for i := range sent {
		sent[i] = open(r, events.NewID(), order, tea(1))
		wait.Go(func() { r.Send(sent[i]) })
	}
	wait.Wait()
	codes := make(map[events.Code]int)
	for _, e := range sent {
		_, code := consumertest.Answer[shop.ReturnOpened](r.Rig, e)
		codes[code]++
	}
	if codes[""] != 3 || codes[shop.AlreadyReturned] != 9 {
		t.Errorf("replies by code: %v, want 3 positive ones", codes)
	}
	if n := consumertest.Read[int](r.Rig, "select sum(quantity) from order_return_line"); n != 3 {
		t.Errorf("%d pieces are coming back", n)
	}
}
