package inventory_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer/consumertest"
)

// sell reserves and commits items, and returns the order.
func (r *rig) sell(items ...shop.Item) (order string) {
	r.T.Helper()
	order = events.NewID()
	if _, code := consumertest.Do[shop.StockReserved](r.Rig, reserve(r, order, "EUR", items...)); code != "" {
		r.T.Fatalf("code %q", code)
	}
	consumertest.Do[events.None](r.Rig, consumertest.Command(r.T, shop.CommitStock, order, shop.CommitStockRequest{OrderID: order}))
	return order
}

func restock(r *rig, id, order, sku string, quantity int64) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.RestockItem, id, shop.RestockItemRequest{ReturnID: id, OrderID: order, SKU: sku, Quantity: quantity})
}

func withdraw(r *rig, id, sku string, undoes events.Event) events.Event {
	r.T.Helper()
	e := consumertest.Command(r.T, shop.WithdrawItem, id, shop.WithdrawItemRequest{ReturnID: id, SKU: sku})
	e.Undoes = undoes.ID
	return e
}

func shelve(r *rig, id string) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.ShelveStock, id, shop.ShelveStockRequest{ReturnID: id})
}

func TestGoodsComeBackToTheShelfWhenTheReturnIsCertain(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sell(shop.Item{SKU: "RARE-001", Quantity: 3}, shop.Item{SKU: "MUG-001", Quantity: 2})
	id := events.NewID()
	rare := restock(r, id, order, "RARE-001", 2)
	for range 2 { // the second is a redelivery
		reply, code := consumertest.Do[shop.ItemRestocked](r.Rig, rare)
		if want := (shop.ItemRestocked{Refund: 19800, Currency: "EUR"}); code != "" || reply != want {
			t.Errorf("code %q, %+v, want %+v", code, reply, want)
		}
	}
	consumertest.Do[shop.ItemRestocked](r.Rig, restock(r, id, order, "MUG-001", 1))
	r.expect("RARE-001", level{2, 0}) // held apart
	put := shelve(r, id)
	for _, e := range []events.Event{put, put, shelve(r, id)} {
		if _, code := consumertest.Do[events.None](r.Rig, e); code != "" {
			t.Errorf("code %q", code)
		}
	}
	r.expect("RARE-001", level{4, 0})
	r.expect("MUG-001", level{99999, 0})
}

func TestWhatIsGivenUpCanComeBackLater(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sell(shop.Item{SKU: "RARE-001", Quantity: 2})
	id := events.NewID()
	rare := restock(r, id, order, "RARE-001", 2)
	consumertest.Do[shop.ItemRestocked](r.Rig, rare)
	undo := withdraw(r, id, "RARE-001", rare)
	for _, e := range []events.Event{undo, undo, withdraw(r, id, "RARE-001", rare)} {
		if _, code := consumertest.Do[events.None](r.Rig, e); code != "" {
			t.Errorf("code %q", code)
		}
	}
	r.expect("RARE-001", level{3, 0})
	again := events.NewID()
	if _, code := consumertest.Do[shop.ItemRestocked](r.Rig, restock(r, again, order, "RARE-001", 2)); code != "" {
		t.Errorf("code %q", code)
	}
}

func TestWithdrawBeforeRestock(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sell(shop.Item{SKU: "RARE-001", Quantity: 2})
	id := events.NewID()
	late := restock(r, id, order, "RARE-001", 2)
	if _, code := consumertest.Do[events.None](r.Rig, withdraw(r, id, "RARE-001", late)); code != "" {
		t.Errorf("code %q", code)
	}
	if _, code := consumertest.Do[shop.ItemRestocked](r.Rig, late); code != "revoked" {
		t.Errorf("the late command has code %q", code)
	}
	if n := consumertest.Read[int](r.Rig, "select count(*) from restock"); n != 0 {
		t.Errorf("%d lines are held apart", n)
	}
}

func TestWhatIsNotTakenBack(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sell(shop.Item{SKU: "TEA-001", Quantity: 2}, shop.Item{SKU: "GIFT-001", Quantity: 1})
	held := events.NewID() // reserved, and not sold yet
	consumertest.Do[shop.StockReserved](r.Rig, reserve(r, held, "EUR", shop.Item{SKU: "TEA-001", Quantity: 2}))
	consumertest.Do[shop.ItemRestocked](r.Rig, restock(r, events.NewID(), order, "TEA-001", 1))
	for name, test := range map[string]struct {
		order, sku string
		quantity   int64
		want       events.Code
	}{
		"a voucher":              {order, "GIFT-001", 1, shop.NotReturnable},
		"another sku":            {order, "MUG-001", 1, shop.ItemNotOrdered},
		"an unknown sku":         {order, "NONE", 1, shop.ItemNotOrdered},
		"an unknown order":       {events.NewID(), "TEA-001", 1, shop.ItemNotOrdered},
		"an order that is held":  {held, "TEA-001", 1, shop.ItemNotOrdered},
		"more than were ordered": {order, "TEA-001", 3, shop.ItemNotOrdered},
		"more than are left":     {order, "TEA-001", 2, shop.AlreadyReturned},
	} {
		e := restock(r, events.NewID(), test.order, test.sku, test.quantity)
		for range 2 {
			if _, code := consumertest.Do[shop.ItemRestocked](r.Rig, e); code != test.want {
				t.Errorf("%s: code %q, want %q", name, code, test.want)
			}
		}
	}
}

func TestRestockCommandsThatCanNeverWorkAreSetAside(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.sell(shop.Item{SKU: "TEA-001", Quantity: 2})
	shelved, given := events.NewID(), events.NewID()
	consumertest.Do[shop.ItemRestocked](r.Rig, restock(r, shelved, order, "TEA-001", 1))
	consumertest.Do[events.None](r.Rig, shelve(r, shelved))
	taken := restock(r, given, order, "TEA-001", 1)
	consumertest.Do[shop.ItemRestocked](r.Rig, taken)
	consumertest.Do[events.None](r.Rig, withdraw(r, given, "TEA-001", taken))
	for _, e := range []events.Event{
		consumertest.Command(t, shop.WithdrawItem, shelved, shop.WithdrawItemRequest{ReturnID: shelved, SKU: "TEA-001"}),
		shelve(r, given), // nothing is held
		shelve(r, events.NewID()),
		restock(r, events.NewID(), order, "TEA-001", 0),
		restock(r, "no uuid", order, "TEA-001", 1),
	} {
		r.Send(e)
	}
	r.Await(5, "select count(*) from dead_letter")
	if attempts := consumertest.Read[int](r.Rig, "select max(attempts) from dead_letter"); attempts != 1 {
		t.Errorf("one was tried %d times", attempts)
	}
	r.expect("TEA-001", level{99999, 0})
}

// Whatever comes back, is given up and is shelved in whatever order, no more comes
// back than was sold, and the shelf has what was shelved.
func TestWhatComesBackWasSold(t *testing.T) {
	t.Parallel()
	r := setup(t)
	const sold = 20
	order := r.sell(shop.Item{SKU: "MUG-001", Quantity: sold})
	r.Feed()
	random := rand.New(rand.NewPCG(1, 7))
	for range 6 {
		var asked, next []events.Event
		var ids []string
		for range 6 {
			id := events.NewID()
			ids = append(ids, id)
			asked = append(asked, restock(r, id, order, "MUG-001", 1+random.Int64N(4)))
		}
		r.sendAll(asked)
		for i, e := range asked {
			_, code := consumertest.Answer[shop.ItemRestocked](r.Rig, e)
			switch {
			case code != "" && code != shop.AlreadyReturned:
				t.Errorf("code %q", code)
			case code == "" && random.IntN(2) == 0:
				next = append(next, withdraw(r, ids[i], "MUG-001", e))
			case code == "":
				next = append(next, shelve(r, ids[i]))
			}
		}
		r.sendAll(next)
		for _, e := range next {
			if _, code := consumertest.Answer[events.None](r.Rig, e); code != "" {
				t.Errorf("code %q", code)
			}
		}
	}
	back := consumertest.Read[int64](r.Rig, "select coalesce(sum(quantity), 0) from restock where status = 'shelved'")
	held := consumertest.Read[int64](r.Rig, "select coalesce(sum(quantity), 0) from restock where status = 'held'")
	if back < 1 || back > sold || held != 0 {
		t.Errorf("%d are shelved and %d held of %d that were sold", back, held, sold)
	}
	r.expect("MUG-001", level{100000 - sold + back, 0})
}

// sendAll sends commands at the same time.
func (r *rig) sendAll(all []events.Event) {
	r.T.Helper()
	var wait sync.WaitGroup
	for _, e := range all {
		wait.Go(func() { r.Send(e) })
	}
	wait.Wait()
}
