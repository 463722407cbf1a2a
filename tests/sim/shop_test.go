package sim_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/saga/sagatest"
)

// The contracts of a shop: it reserves each line of an order, holds the price, has
// dear orders approved, plans the delivery by a saga of its own, and then captures
// the money and ships.
type (
	order struct {
		ID       string
		Customer string
		Lines    []line
		Price    int
		Approved bool
		Day      int
	}
	line struct {
		SKU      string
		Quantity int
		Price    int
	}
	wish struct{ Lines []line }
	part struct {
		Order, SKU      string
		Index, Quantity int
	}
	priced struct{ Price int }
	bill   struct {
		Order, Customer string
		Amount          int
	}
	opinion struct{ Yes bool }
	plan    struct {
		Order string
		Day   int
	}
)

var (
	request  = events.NewCommand[wish, bill]("sim.order.request.v1")
	reserve  = events.NewCommand[part, priced]("sim.stock.reserve.v1", "out_of_stock")
	release  = events.NewCommand[part, events.None]("sim.stock.release.v1")
	ship     = events.NewCommand[part, events.None]("sim.stock.ship.v1")
	hold     = events.NewCommand[bill, events.None]("sim.money.hold.v1", "no_money")
	free     = events.NewCommand[bill, events.None]("sim.money.free.v1")
	capture  = events.NewCommand[bill, events.None]("sim.money.capture.v1")
	thank    = events.NewCommand[bill, events.None]("sim.mail.thank.v1")
	approved = events.NewFact[opinion]("sim.order.approved.v1")
	deliver  = events.NewCommand[plan, plan]("sim.delivery.plan.v1")
	book     = events.NewCommand[plan, plan]("sim.van.book.v1", "full")
	unbook   = events.NewCommand[plan, events.None]("sim.van.unbook.v1")
)

type ordered = saga.Each[order, line]

func (o order) bill() bill { return bill{o.ID, o.Customer, o.Price} }

func lineOf(l ordered) part { return part{l.State.ID, l.Item.SKU, l.Index, l.Item.Quantity} }

func lines(o order) []line { return o.Lines }

var shopSaga = saga.Definition[order]{
	Name: "order", Version: 1, Deadline: 48 * time.Hour,
	Start: saga.On(request,
		func(id string, w wish) order { return order{ID: id, Customer: "ada", Lines: w.Lines} }, order.bill),
	Flow: saga.Sequence[order]{
		saga.ForEach[order, line]{Name: "reserve-lines", Limit: 2, Items: lines, Body: saga.Step[ordered]{
			Name: "reserve",
			Do: saga.Call(reserve, lineOf, func(l *ordered, p priced) {
				l.Item.Price = p.Price
				l.State.Price += p.Price
			}),
			Undo: saga.Undo(reserve, release, func(_ ordered, sent saga.Sent[part, priced]) part { return sent.Request }),
		}},
		saga.Step[order]{
			Name: "hold-money", Do: saga.Call(hold, order.bill, nil),
			Undo: saga.Undo(hold, free, func(_ order, sent saga.Sent[bill, events.None]) bill { return sent.Request }),
			OnReject: map[events.Code]saga.Handler[order]{
				"no_money": {Do: saga.Sleep[order]{Name: "wait-for-payday", For: time.Hour}, Retry: true},
			},
		},
		saga.Choice[order]{Name: "size", Cases: []saga.Case[order]{{
			When: func(o order) bool { return o.Price > 100 },
			Then: saga.Await[order]{
				Name: "approval", Timeout: 24 * time.Hour, TimeoutCode: "not_approved",
				For: saga.Signal(approved, func(o *order, a opinion) { o.Approved = a.Yes }),
			},
		}}},
		saga.Child[order]{
			Name: "delivery", Start: saga.Call(deliver, func(o order) plan { return plan{Order: o.ID} }, func(o *order, p plan) { o.Day = p.Day }),
		},
		saga.Step[order]{Name: "capture-money", Pivot: true, Do: saga.Call(capture, order.bill, nil)},
		saga.Parallel[order]{Branches: []saga.Node[order]{
			saga.ForEach[order, line]{Name: "ship-lines", Items: lines, Body: saga.Step[ordered]{Name: "ship", Do: saga.Call(ship, lineOf, nil)}},
			saga.Step[order]{Name: "thank", Do: saga.Call(thank, order.bill, nil)},
		}},
	},
}

// deliverySaga books one of two vans.
var deliverySaga = saga.Definition[plan]{
	Name: "delivery", Version: 1,
	Start: saga.On(deliver, func(_ string, p plan) plan { return p }, func(p plan) plan { return p }),
	Flow:  saga.Sequence[plan]{van("morning", saga.Step[plan]{}), van("evening", saga.Step[plan]{})},
}

func van(name string, s saga.Step[plan]) saga.Step[plan] {
	s.Name = name
	s.Do = saga.Call(book, func(p plan) plan { return p }, func(p *plan, booked plan) { p.Day = booked.Day })
	s.Undo = saga.Undo(book, unbook, func(_ plan, sent saga.Sent[plan, plan]) plan { return sent.Request })
	return s
}

// shop is what the participants have in their databases.
type shop struct {
	stock, shipped map[string]int
	reserved       map[part]bool
	prices         map[string]int // of what is reserved, by order
	money          int
	held, captured map[string]int // by order
	vans           map[string]int // places by order
}

const (
	stockAtFirst = 12
	moneyAtFirst = 600
)

func newShop() *shop {
	return &shop{
		stock: map[string]int{"TEA": stockAtFirst, "MUG": stockAtFirst}, shipped: make(map[string]int), reserved: make(map[part]bool), prices: make(map[string]int),
		money: moneyAtFirst, held: make(map[string]int), captured: make(map[string]int), vans: make(map[string]int),
	}
}

// participants answers by what is in stock, and fails the run when a command does
// what must not be done.
func participants() []sagatest.Option {
	s := newShop()
	none := events.None{}
	return []sagatest.Option{
		sagatest.Reply(reserve, func(p part) (priced, error) {
			if s.stock[p.SKU] < p.Quantity {
				return priced{}, events.Reject("out_of_stock", "none left")
			}
			if s.reserved[p] {
				return priced{}, fmt.Errorf("reserved twice: %+v", p)
			}
			s.stock[p.SKU] -= p.Quantity
			s.reserved[p] = true
			return priced{p.Quantity * 20}, nil
		}),
		sagatest.Reply(release, func(p part) (events.None, error) {
			if !s.reserved[p] {
				return none, fmt.Errorf("released, and not reserved: %+v", p)
			}
			delete(s.reserved, p)
			s.stock[p.SKU] += p.Quantity
			return none, nil
		}),
		sagatest.Reply(ship, func(p part) (events.None, error) {
			if !s.reserved[p] {
				return none, fmt.Errorf("shipped, and not reserved: %+v", p)
			}
			delete(s.reserved, p)
			s.shipped[p.SKU] += p.Quantity
			return none, nil
		}),
		sagatest.Reply(hold, func(b bill) (events.None, error) {
			if s.money < b.Amount {
				return none, events.Reject("no_money", "the account is empty")
			}
			s.money -= b.Amount
			s.held[b.Order] += b.Amount
			return none, nil
		}),
		sagatest.Reply(free, func(b bill) (events.None, error) {
			if s.held[b.Order] != b.Amount {
				return none, fmt.Errorf("freed %d of %d that are held", b.Amount, s.held[b.Order])
			}
			delete(s.held, b.Order)
			s.money += b.Amount
			return none, nil
		}),
		sagatest.Reply(capture, func(b bill) (events.None, error) {
			if s.held[b.Order] != b.Amount {
				return none, fmt.Errorf("captured %d of %d that are held", b.Amount, s.held[b.Order])
			}
			delete(s.held, b.Order)
			s.captured[b.Order] += b.Amount
			return none, nil
		}),
		sagatest.Reply(book, func(p plan) (plan, error) {
			s.vans[p.Order]++
			return plan{p.Order, 1 + s.vans[p.Order]}, nil
		}),
		sagatest.Reply(unbook, func(p plan) (events.None, error) {
			s.vans[p.Order]--
			return none, nil
		}),
		sagatest.Check(s.balance),
	}
}

// balance counts at the end: nothing is lost, and nobody paid for nothing.
func (s *shop) balance(sagas []saga.Instance) error {
	money := s.money
	for _, in := range sagas {
		if in.Name != "order" {
			continue
		}
		paid, places := s.captured[in.ID], s.vans[in.ID]
		money += paid
		switch in.Status {
		case saga.Completed:
			if places != 2 {
				return fmt.Errorf("order %s is completed with %d places on vans", in.ID, places)
			}
		case saga.Compensated:
			if paid != 0 || places != 0 {
				return fmt.Errorf("order %s is compensated, and has paid %d and %d places on vans", in.ID, paid, places)
			}
		default:
			return fmt.Errorf("order %s is %s", in.ID, in.Status)
		}
	}
	if money != moneyAtFirst || len(s.held) > 0 || len(s.reserved) > 0 {
		return fmt.Errorf("of %d there is %d; held %v, reserved %v", moneyAtFirst, money, s.held, s.reserved)
	}
	for sku, n := range s.stock {
		if n < 0 || n+s.shipped[sku] != stockAtFirst {
			return fmt.Errorf("%s: %d in stock and %d shipped, of %d", sku, n, s.shipped[sku], stockAtFirst)
		}
	}
	return nil
}

func shopOptions() []sagatest.Option {
	return []sagatest.Option{
		sagatest.With(deliverySaga), sagatest.Fresh(participants), sagatest.Sagas(5),
		sagatest.Request(request, func(rng *rand.Rand) wish {
			w := wish{}
			for range 1 + rng.IntN(3) {
				w.Lines = append(w.Lines, line{SKU: []string{"TEA", "MUG"}[rng.IntN(2)], Quantity: 1 + rng.IntN(4)})
			}
			return w
		}),
	}
}

func TestShop(t *testing.T) {
	sagatest.Explore(t, shopSaga, 1500, shopOptions()...)
}

func TestShopUnwinds(t *testing.T) {
	sagatest.Unwind(t, shopSaga, shopOptions()...)
	sagatest.Unwind(t, deliverySaga)
}
