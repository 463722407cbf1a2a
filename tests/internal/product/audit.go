package product

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Prices of the sample shop in cents, and what is on its shelves at first.
var (
	Prices = map[string]int64{"TEA-001": 450, "MUG-001": 1200, "RARE-001": 9900}
	Seeded = map[string]int64{"TEA-001": 100000, "MUG-001": 100000, "RARE-001": 5}
)

// ending is how an order and its payment may look after a saga ended with a
// rejection code; "" stands for a completed saga, and for what is not there.
type ending struct{ order, payment []string }

var endings = map[string]ending{
	"":                     {[]string{"confirmed"}, []string{"captured"}},
	"card_declined":        {[]string{"cancelled"}, []string{"declined"}},
	"capture_failed":       {[]string{"cancelled"}, []string{"voided"}},
	"out_of_stock":         {[]string{"cancelled"}, []string{""}},
	"unknown_sku":          {[]string{"cancelled"}, []string{""}},
	"unsupported_currency": {[]string{"cancelled"}, []string{""}},
	// In doubt: the command may have come late, or after its undo and never.
	"payment_timeout": {[]string{"cancelled"}, []string{"voided", "declined", ""}},
	"timeout":         {[]string{"cancelled", ""}, []string{""}},
}

// Audit reads every saga that there ever was and compares orders, payments and
// shelves with what they must be after it: all sagas have ended, sold stock has
// left its shelf and no more, nothing is reserved, each order is paid once or
// not at all. It returns a line for everything that is wrong, and all sagas by
// id. Call it when no saga runs.
func Audit(ctx context.Context, shop Shop, operator Operator) (faults []string, sagas map[string]Saga, err error) {
	list, err := operator.Sagas(ctx, 500)
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	a := audit{shop: shop, sold: make(map[string]int64)}
	sagas = make(map[string]Saga, len(list))
	for _, s := range list {
		if _, twice := sagas[s.ID]; twice {
			a.fault("saga %s is listed twice", s.ID)
		}
		sagas[s.ID] = s
		if s.Status == "completed" {
			for _, item := range s.State.Items {
				a.sold[item.SKU] += item.Quantity
			}
		}
	}
	if err := a.each(ctx, list); err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	if err := a.shelves(ctx); err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	return a.faults, sagas, nil
}

type audit struct {
	shop Shop
	sold map[string]int64

	mu     sync.Mutex
	faults []string
}

func (a *audit) fault(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, fmt.Sprintf(format, args...))
}

// each compares order and payment of all sagas, several at a time.
func (a *audit) each(ctx context.Context, sagas []Saga) error {
	const readers = 8
	var (
		wait  sync.WaitGroup
		once  sync.Once
		first error
	)
	for part := range slices.Chunk(sagas, len(sagas)/readers+1) {
		wait.Go(func() {
			for _, s := range part {
				if err := a.one(ctx, s); err != nil {
					once.Do(func() { first = err })
					return
				}
			}
		})
	}
	wait.Wait()
	return first
}

func (a *audit) one(ctx context.Context, s Saga) error {
	code := ""
	switch {
	case s.Status == "compensated" && s.Failure != nil:
		code = s.Failure.Code
	case s.Status != "completed":
		a.fault("saga %s is %s, failure %v", s.ID, s.Status, s.Failure)
		return nil
	}
	want, known := endings[code]
	if !known {
		a.fault("saga %s ended with %s, which no checkout should", s.ID, code)
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
	price := int64(0)
	for _, item := range s.State.Items {
		price += item.Quantity * Prices[item.SKU]
	}
	if charged && (charge.Amount != price || s.State.Total != price) {
		a.fault("saga %s costs %d: its payment is of %d and its total %d", s.ID, price, charge.Amount, s.State.Total)
	}
	if order.Status == "confirmed" && order.Total != price {
		a.fault("saga %s costs %d: its order says %d", s.ID, price, order.Total)
	}
	return nil
}

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
