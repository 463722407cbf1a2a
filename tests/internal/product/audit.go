package product

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Prices of the sample shop in cents, and what is on its shelves at first.
var (
	Prices = map[string]int64{"TEA-001": 450, "MUG-001": 1200, "RARE-001": 9900, "GIFT-001": 2500}
	Seeded = map[string]int64{"TEA-001": 100000, "MUG-001": 100000, "RARE-001": 5, "GIFT-001": 1000}
)

// ending is how an order and its payment may look after a saga ended with a
// rejection code; "" stands for a completed saga, and for what is not there.
type ending struct{ order, payment []string }

var endings = map[string]ending{
	"":                     {[]string{"confirmed", "partially_returned", "returned"}, []string{"captured"}},
	"card_declined":        {[]string{"cancelled"}, []string{"declined"}},
	"capture_failed":       {[]string{"cancelled"}, []string{"voided"}},
	"out_of_stock":         {[]string{"cancelled"}, []string{""}},
	"unknown_sku":          {[]string{"cancelled"}, []string{""}},
	"unsupported_currency": {[]string{"cancelled"}, []string{""}},
	// In doubt: the command may have come late, or after its undo and never.
	"payment_timeout": {[]string{"cancelled"}, []string{"voided", "declined", ""}},
	"timeout":         {[]string{"cancelled", ""}, []string{""}},
	// By the client, at any step before the payment is captured.
	"cancelled":       {[]string{"cancelled", ""}, []string{"voided", "declined", ""}},
	"review_declined": {[]string{"cancelled"}, []string{"voided"}},
	"review_expired":  {[]string{"cancelled"}, []string{"voided"}},
}

// readModelTimeout is how long the read model may lag behind: a process that was
// killed, or spoke to a broker that was, keeps the message it had in hand for 10 s.
const readModelTimeout = 45 * time.Second

// Audit reads every saga that there ever was and compares orders, payments,
// shelves and the read model with what they must be after it: all sagas have
// ended, sold stock has left its shelf and no more, what came back is on it again,
// nothing is reserved, each order is paid once or not at all, paid back as its
// returns say, and counted once. It returns a line for everything that is wrong,
// and all sagas by id. Call it when no saga runs.
func Audit(ctx context.Context, shop Shop, operator Operator) (faults []string, sagas map[string]Saga, err error) {
	list, err := operator.Sagas(ctx, 500)
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	a := audit{
		shop: shop, operator: operator, sagas: make(map[string]Saga, len(list)), sold: make(map[string]int64),
		refunds: make(map[string]refund), customers: make(map[string]Customer),
	}
	if err := each(list, func(s Saga) error { return a.read(ctx, s.ID) }); err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	if err := each(slices.Collect(maps.Values(a.sagas)), func(s Saga) error { return a.saga(ctx, s) }); err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	if err := a.shelves(ctx); err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	if err := each(slices.Collect(maps.Keys(a.customers)), func(name string) error { return a.customer(ctx, name) }); err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	return a.faults, a.sagas, nil
}

type audit struct {
	shop     Shop
	operator Operator

	mu        sync.Mutex
	sagas     map[string]Saga
	sold      map[string]int64 // by sku, without what came back
	refunds   map[string]refund
	faults    []string
	customers map[string]Customer // what their orders add up to
}

// refund is what returns of an order add up to.
type refund struct{ amount, pieces int64 }

// read reads one saga with its state, and counts what it sold or took back.
func (a *audit) read(ctx context.Context, id string) error {
	s, err := a.operator.Saga(ctx, id)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, twice := a.sagas[id]; twice {
		a.faults = append(a.faults, fmt.Sprintf("saga %s is listed twice", id))
	}
	a.sagas[id] = s
	if s.Status != "completed" {
		return nil
	}
	for _, item := range s.State.Items {
		if s.Name == "returns" {
			a.sold[item.SKU] -= item.Quantity
			r := a.refunds[s.State.OrderID]
			a.refunds[s.State.OrderID] = refund{r.amount + item.Quantity*Prices[item.SKU], r.pieces + item.Quantity}
		} else {
			a.sold[item.SKU] += item.Quantity
		}
	}
	return nil
}

func (a *audit) fault(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, fmt.Sprintf(format, args...))
}

// each does something to all items, several at a time, and returns the first
// error.
func each[T any](items []T, do func(T) error) error {
	const workers = 8
	var (
		wait  sync.WaitGroup
		once  sync.Once
		first error
	)
	for part := range slices.Chunk(items, len(items)/workers+1) {
		wait.Go(func() {
			for _, item := range part {
				if err := do(item); err != nil {
					once.Do(func() { first = err })
					return
				}
			}
		})
	}
	wait.Wait()
	return first
}

func (a *audit) saga(ctx context.Context, s Saga) error {
	code := ""
	switch {
	case s.Status == "compensated" && s.Failure != nil:
		code = s.Failure.Code
	case s.Status != "completed":
		a.fault("saga %s is %s, failure %v", s.ID, s.Status, s.Failure)
		return nil
	}
	switch s.Name {
	case "returns":
		return a.returned(ctx, s)
	case "fulfilment", "ai-call":
		return nil // its order is a review's, or there is none
	}
	want, known := endings[code]
	if !known {
		a.fault("saga %s ended with %s, which no order should", s.ID, code)
		return nil
	}
	order, _, err := a.shop.Order(ctx, s.ID)
	if err != nil {
		return err
	}
	charge, charged, err := a.shop.Charge(ctx, s.ID)
	if err != nil {
		return err
	}
	if !slices.Contains(want.order, order.Status) || !slices.Contains(want.payment, charge.Status) {
		a.fault("saga %s ended %s %s: its order is %q and its payment %q, want %q and %q",
			s.ID, s.Status, code, order.Status, charge.Status, want.order, want.payment)
	}
	price, pieces := int64(0), int64(0)
	for _, item := range s.State.Items {
		price += item.Quantity * Prices[item.SKU]
		pieces += item.Quantity
	}
	back := a.refunds[s.ID]
	if back.amount != charge.Refunded || back.pieces > pieces {
		a.fault("of order %s %d of %d pieces came back for %d: its payment says that %d were paid back", s.ID, back.pieces, pieces, back.amount, charge.Refunded)
	}
	if was := order.Status; (was == "returned") != (back.pieces > 0 && back.pieces == pieces) || (was == "partially_returned") != (back.pieces > 0 && back.pieces < pieces) {
		a.fault("order %s is %s, and %d of %d pieces came back", s.ID, was, back.pieces, pieces)
	}
	if charged && (charge.Amount != price || s.State.Total != price) {
		a.fault("saga %s costs %d: its payment is of %d and its total %d", s.ID, price, charge.Amount, s.State.Total)
	}
	if charge.Status == "captured" && order.Total != price {
		a.fault("saga %s costs %d: its order says %d", s.ID, price, order.Total)
	}
	if order.Status != "" {
		a.count(s.State.Customer, order)
	}
	return nil
}

// returned checks a return: what it cost and how the order service shows it.
func (a *audit) returned(ctx context.Context, s Saga) error {
	back, found, err := a.shop.Return(ctx, s.ID)
	if err != nil {
		return err
	}
	price := int64(0)
	for _, item := range s.State.Items {
		price += item.Quantity * Prices[item.SKU]
	}
	switch {
	case s.Status == "completed" && (back.Status != "completed" || back.Refund != price || s.State.Refund != price):
		a.fault("return %s costs %d: it is %+v, its saga refunded %d", s.ID, price, back, s.State.Refund)
	case s.Status == "compensated" && found && back.Status != "cancelled":
		a.fault("return %s was undone: it is %+v", s.ID, back)
	}
	return nil
}

// count adds an order to what its customer's add up to.
func (a *audit) count(name string, order Order) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.customers[name]
	switch order.Status {
	case "confirmed", "partially_returned", "returned": // the model does not look at returns
		c.Confirmed++
		if c.Spent == nil {
			c.Spent = make(map[string]int64)
		}
		c.Spent[order.Currency] += order.Total
	case "cancelled":
		c.Cancelled++
	default:
		c.Pending++
	}
	a.customers[name] = c
}

// customer compares the read model, which may come a little later.
func (a *audit) customer(ctx context.Context, name string) error {
	want := a.customers[name]
	var is Customer
	err := Await(ctx, readModelTimeout, func() (err error) {
		is, _, err = a.shop.Customer(ctx, name)
		if err == nil && (is.Pending != want.Pending || is.Confirmed != want.Confirmed || is.Cancelled != want.Cancelled || !maps.Equal(is.Spent, want.Spent)) {
			return errLags
		}
		return err
	})
	if errors.Is(err, errLags) {
		a.fault("the read model says %+v of customer %s, whose orders add up to %+v", is, name, want)
		return nil
	}
	return err
}

var errLags = errors.New("the read model differs")

func (a *audit) shelves(ctx context.Context) error {
	for _, sku := range slices.Sorted(maps.Keys(Seeded)) {
		shelf, err := a.shop.Stock(ctx, sku)
		if err != nil {
			return err
		}
		left := Seeded[sku] - a.sold[sku]
		if shelf.OnHand != left || shelf.Reserved != 0 || shelf.Available != left {
			a.fault("of %s %d were sold: on hand %d, reserved %d, available %d, want %d, 0, %d",
				sku, a.sold[sku], shelf.OnHand, shelf.Reserved, shelf.Available, left, left)
		}
	}
	return nil
}
