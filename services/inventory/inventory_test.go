package inventory_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/services/inventory"
)

// level is what the stock of one sku is.
type level struct{ OnHand, Reserved int64 }

func (r *rig) level(sku string) (l level) {
	r.T.Helper()
	err := r.Pool.QueryRow(r.T.Context(), "select on_hand, reserved from stock where sku = $1", sku).Scan(&l.OnHand, &l.Reserved)
	if err != nil {
		r.T.Fatal(err)
	}
	return l
}

func (r *rig) expect(sku string, want level) {
	r.T.Helper()
	if got := r.level(sku); got != want {
		r.T.Errorf("stock of %s is %+v, want %+v", sku, got, want)
	}
}

func reserve(r *rig, order, currency string, items ...shop.Item) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.ReserveStock, order, shop.ReserveStockRequest{OrderID: order, Currency: currency, Items: items})
}

func TestReserve(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	e := reserve(r, order, "EUR",
		shop.Item{SKU: "TEA-001", Quantity: 2}, shop.Item{SKU: "MUG-001", Quantity: 1}, shop.Item{SKU: "TEA-001", Quantity: 1})
	want := shop.StockReserved{
		Lines: []shop.Line{{SKU: "MUG-001", Quantity: 1, UnitPrice: 1200}, {SKU: "TEA-001", Quantity: 3, UnitPrice: 450}},
		Total: 2550,
	}
	for range 2 { // the second is a redelivery
		got, code := consumertest.Do[shop.StockReserved](r.Rig, e)
		if code != "" || !cmp.Equal(got, want) {
			t.Errorf("code %q, %s", code, cmp.Diff(want, got))
		}
	}
	r.expect("TEA-001", level{100000, 3})
	r.expect("MUG-001", level{100000, 1})
	if held := consumertest.Read[int](r.Rig, "select sum(quantity * unit_price) from reservation where order_id = $1 and status = 'held'", order); held != 2550 {
		t.Errorf("lines worth %d are held", held)
	}
}

func TestReserveIsRejectedWhole(t *testing.T) {
	t.Parallel()
	r := setup(t)
	for name, test := range map[string]struct {
		currency string
		items    []shop.Item
		want     events.Code
	}{
		"unknown sku":    {"EUR", []shop.Item{{SKU: "TEA-001", Quantity: 1}, {SKU: "NONE", Quantity: 1}}, shop.UnknownSKU},
		"too little":     {"EUR", []shop.Item{{SKU: "MUG-001", Quantity: 1}, {SKU: "RARE-001", Quantity: 6}}, shop.OutOfStock},
		"too little sum": {"EUR", []shop.Item{{SKU: "RARE-001", Quantity: 3}, {SKU: "TEA-001", Quantity: 1}, {SKU: "RARE-001", Quantity: 3}}, shop.OutOfStock},
		"both":           {"EUR", []shop.Item{{SKU: "RARE-001", Quantity: 6}, {SKU: "ZZZ", Quantity: 1}}, shop.UnknownSKU},
		"currency":       {"USD", []shop.Item{{SKU: "TEA-001", Quantity: 1}}, shop.UnsupportedCurrency},
	} {
		e := reserve(r, events.NewID(), test.currency, test.items...)
		for range 2 {
			if _, code := consumertest.Do[shop.StockReserved](r.Rig, e); code != test.want {
				t.Errorf("%s: code %q, want %q", name, code, test.want)
			}
		}
	}
	for _, sku := range []string{"TEA-001", "MUG-001"} {
		r.expect(sku, level{100000, 0})
	}
	r.expect("RARE-001", level{5, 0})
	if n := consumertest.Read[int](r.Rig, "select count(*) from reservation"); n != 0 {
		t.Errorf("%d reservations are left", n)
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	held := reserve(r, order, "EUR", shop.Item{SKU: "RARE-001", Quantity: 5}, shop.Item{SKU: "TEA-001", Quantity: 2})
	consumertest.Do[shop.StockReserved](r.Rig, held)
	r.expect("RARE-001", level{5, 5})

	undo := consumertest.Command(t, shop.ReleaseStock, order, shop.ReleaseStockRequest{OrderID: order})
	undo.Undoes = held.ID
	for range 2 {
		if _, code := consumertest.Do[events.None](r.Rig, undo); code != "" {
			t.Errorf("rejected with %q", code)
		}
	}
	// Another release of the same order, and one of an order that is not there.
	for _, id := range []string{order, events.NewID()} {
		if _, code := consumertest.Do[events.None](r.Rig, consumertest.Command(t, shop.ReleaseStock, id, shop.ReleaseStockRequest{OrderID: id})); code != "" {
			t.Errorf("rejected with %q", code)
		}
	}
	r.expect("RARE-001", level{5, 0})
	r.expect("TEA-001", level{100000, 0})
}

func TestReleaseBeforeReserve(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	late := reserve(r, order, "EUR", shop.Item{SKU: "RARE-001", Quantity: 5})
	undo := consumertest.Command(t, shop.ReleaseStock, order, shop.ReleaseStockRequest{OrderID: order})
	undo.Undoes = late.ID
	if _, code := consumertest.Do[events.None](r.Rig, undo); code != "" {
		t.Errorf("undo is rejected with %q", code)
	}
	if _, code := consumertest.Do[shop.StockReserved](r.Rig, late); code != "revoked" {
		t.Errorf("the late command has code %q", code)
	}
	r.expect("RARE-001", level{5, 0})
}

func TestCommit(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	consumertest.Do[shop.StockReserved](r.Rig, reserve(r, order, "EUR", shop.Item{SKU: "RARE-001", Quantity: 2}, shop.Item{SKU: "MUG-001", Quantity: 1}))
	e := consumertest.Command(t, shop.CommitStock, order, shop.CommitStockRequest{OrderID: order})
	again := consumertest.Command(t, shop.CommitStock, order, shop.CommitStockRequest{OrderID: order})
	for _, e := range []events.Event{e, e, again} {
		if _, code := consumertest.Do[events.None](r.Rig, e); code != "" {
			t.Errorf("rejected with %q", code)
		}
	}
	// What is committed is not given back.
	consumertest.Do[events.None](r.Rig, consumertest.Command(t, shop.ReleaseStock, order, shop.ReleaseStockRequest{OrderID: order}))
	r.expect("RARE-001", level{3, 0})
	r.expect("MUG-001", level{99999, 0})
}

func TestCommandsThatCanNeverWorkAreSetAside(t *testing.T) {
	t.Parallel()
	r := setup(t)
	released, item := events.NewID(), shop.Item{SKU: "TEA-001", Quantity: 1}
	consumertest.Do[shop.StockReserved](r.Rig, reserve(r, released, "EUR", item))
	consumertest.Do[events.None](r.Rig, consumertest.Command(t, shop.ReleaseStock, released, shop.ReleaseStockRequest{OrderID: released}))
	for _, e := range []events.Event{
		consumertest.Command(t, shop.CommitStock, released, shop.CommitStockRequest{OrderID: released}),
		consumertest.Command(t, shop.CommitStock, "order", shop.CommitStockRequest{OrderID: events.NewID()}),
		consumertest.Command(t, shop.CommitStock, "order", shop.CommitStockRequest{OrderID: "42"}),
		reserve(r, "order", "EUR", item),
		reserve(r, events.NewID(), "EUR"),
		reserve(r, events.NewID(), "EUR", shop.Item{SKU: "TEA-001", Quantity: -1}),
	} {
		r.Send(e)
	}
	r.Await(6, "select count(*) from dead_letter")
	if attempts := consumertest.Read[int](r.Rig, "select max(attempts) from dead_letter"); attempts != 1 {
		t.Errorf("one was tried %d times", attempts)
	}
	r.expect("TEA-001", level{100000, 0})
}

// Orders that reach for the same sku at the same time, four in a transaction, get
// exactly what is there.
func TestReserveConcurrently(t *testing.T) {
	t.Parallel()
	r := setup(t)
	if _, err := r.Pool.Exec(t.Context(), "insert into stock (sku, on_hand, price) values ('A', 10, 1), ('B', 1000, 1)"); err != nil {
		t.Fatal(err)
	}
	var (
		competitors    sync.WaitGroup
		mu             sync.Mutex
		held, rejected int
	)
	for range 8 {
		competitors.Go(func() {
			// Half of them name the two skus the other way round, which would deadlock
			// if rows were locked in that order.
			var orders []shop.ReserveStockRequest
			for i := range 4 {
				items := []shop.Item{{SKU: "A", Quantity: 1}, {SKU: "B", Quantity: 1}}
				if i%2 == 0 {
					items[0], items[1] = items[1], items[0]
				}
				orders = append(orders, shop.ReserveStockRequest{OrderID: events.NewID(), Currency: "EUR", Items: items})
			}
			var ended []error
			err := postgres.InTx(t.Context(), r.Pool, func(tx pgx.Tx) (err error) {
				ended, err = inventory.Reserve(t.Context(), r.Service, tx, orders...)
				return err
			})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, err := range ended {
				var refused *events.Rejection
				switch {
				case err == nil:
					held++
				case errors.As(err, &refused) && refused.Code == shop.OutOfStock:
					rejected++
				default:
					t.Error(err)
				}
			}
		})
	}
	competitors.Wait()
	if held != 10 || rejected != 22 {
		t.Errorf("%d held and %d rejected, want 10 and 22", held, rejected)
	}
	r.expect("A", level{10, 10})
	r.expect("B", level{1000, 10})
	if n := consumertest.Read[int](r.Rig, "select count(*) from reservation"); n != 20 {
		t.Errorf("%d lines are held, want 20", n)
	}
}

// The same through the broker, while a second feed takes over half of it.
func TestReserveThroughTheBroker(t *testing.T) {
	t.Parallel()
	r := setup(t)
	var sent []events.Event
	for range 32 {
		sent = append(sent, reserve(r, events.NewID(), "EUR", shop.Item{SKU: "RARE-001", Quantity: 1}))
	}
	r.Feed()
	var senders sync.WaitGroup
	for _, e := range sent {
		senders.Go(func() { r.Send(e) })
	}
	senders.Wait()
	codes := make(map[events.Code]int)
	for _, e := range sent {
		_, code := consumertest.Answer[shop.StockReserved](r.Rig, e)
		codes[code]++
	}
	if codes[""] != 5 || codes[shop.OutOfStock] != 27 {
		t.Errorf("replies by code: %v, want 5 positive ones", codes)
	}
	r.expect("RARE-001", level{5, 5})
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	r := setup(t)
	consumertest.Do[shop.StockReserved](r.Rig, reserve(r, events.NewID(), "EUR", shop.Item{SKU: "RARE-001", Quantity: 2}))
	status, contentType, body := r.get("/v1/inventory/RARE-001")
	if status != http.StatusOK || contentType != "application/json" ||
		body != `{"sku":"RARE-001","on_hand":5,"reserved":2,"available":3}`+"\n" {
		t.Errorf("%d %s %s", status, contentType, body)
	}
	for path, code := range map[string]string{
		"/v1/inventory/NONE": "sku_not_found", "/v1/inventory/a%00b": "sku_not_found", "/v1/inventory/%ff": "sku_not_found",
		"/v1/inventory": "not_found", "/": "not_found",
	} {
		status, contentType, body := r.get(path)
		var problem struct {
			Code   string `json:"code"`
			Status int    `json:"status"`
		}
		if err := json.Unmarshal([]byte(body), &problem); err != nil {
			t.Errorf("%s: %v in %q", path, err, body)
		}
		if fmt.Sprint(status, contentType, problem.Status, problem.Code) != fmt.Sprint(404, "application/problem+json", 404, code) {
			t.Errorf("%s: %d %s %s", path, status, contentType, body)
		}
	}
	r.Pool.Close()
	if status, _, body := r.get("/v1/inventory/RARE-001"); status != http.StatusServiceUnavailable {
		t.Errorf("without a database: %d %s", status, body)
	}
}
