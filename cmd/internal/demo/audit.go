package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// audit counts in the services' own databases.
type audit struct {
	databases map[string]string // URL by role
}

// stock is the shelf of one sku.
type stock struct {
	SKU      string
	OnHand   int64
	Reserved int64
}

func (a audit) shelf(ctx context.Context) (map[string]stock, error) {
	rows, err := collect[stock](ctx, a.databases[wire.Inventory], "select sku, on_hand, reserved from stock")
	shelf := make(map[string]stock, len(rows))
	for _, row := range rows {
		shelf[row.SKU] = row
	}
	return shelf, err
}

// check compares the shelf with what it was, payments with orders, and counts
// what happened twice. It returns a line for everything that is wrong.
func (a audit) check(ctx context.Context, before map[string]stock, orders int) (stockOK, moneyOK bool, duplicates int, problems []string, err error) {
	after, err := a.shelf(ctx)
	if err != nil {
		return false, false, 0, nil, err
	}
	type line struct {
		SKU      string
		Status   string
		Quantity int64
	}
	lines, err := collect[line](ctx, a.databases[wire.Inventory],
		"select sku, status, sum(quantity)::bigint from reservation group by sku, status")
	if err != nil {
		return false, false, 0, nil, err
	}
	// What came back, where it is now.
	back, err := collect[line](ctx, a.databases[wire.Inventory],
		"select sku, status, sum(quantity)::bigint from restock group by sku, status")
	if err != nil {
		return false, false, 0, nil, err
	}
	sold := make(map[string]int64)
	stockOK, moneyOK = true, true
	for _, l := range lines {
		switch l.Status {
		case "committed":
			sold[l.SKU] += l.Quantity
		case "held":
			stockOK = false
			problems = append(problems, fmt.Sprintf("stock: %d of %s are still held", l.Quantity, l.SKU))
		}
	}
	for _, l := range back {
		switch l.Status {
		case "shelved":
			sold[l.SKU] -= l.Quantity
		case "held":
			stockOK = false
			problems = append(problems, fmt.Sprintf("stock: %d of %s that came back are still held apart", l.Quantity, l.SKU))
		}
	}
	for sku, was := range before {
		is := after[sku]
		if is.OnHand+sold[sku] != was.OnHand || is.Reserved != 0 {
			stockOK = false
			problems = append(problems, fmt.Sprintf("stock: %s had %d, sold %d, has %d of which %d are reserved",
				sku, was.OnHand, sold[sku], is.OnHand, is.Reserved))
		}
	}
	type money struct {
		ID     string
		Status string
		Amount int64
		Back   int64 // of that, what was refunded
	}
	placed, err := collect[money](ctx, a.databases[wire.Order], `
		select o.id::text, o.status, coalesce(o.total, 0),
			(select coalesce(sum(refund), 0)::bigint from order_return as r where r.order_id = o.id and r.status = 'completed')
		from orders as o`)
	if err != nil {
		return false, false, 0, nil, err
	}
	paid, err := collect[money](ctx, a.databases[wire.Payment], "select order_id::text, status, amount, refunded from payment")
	if err != nil {
		return false, false, 0, nil, err
	}
	captured, refunded := make(map[string]int64), make(map[string]int64)
	for _, p := range paid {
		switch p.Status {
		case "captured":
			captured[p.ID] += p.Amount
			refunded[p.ID] += p.Back
		case "authorized", "authorizing":
			moneyOK = false
			problems = append(problems, fmt.Sprintf("money: the payment of order %s is still %s", p.ID, p.Status))
		}
	}
	for _, o := range placed {
		want, final := int64(0), o.Status == "confirmed" || o.Status == "partially_returned" || o.Status == "returned"
		if final {
			want = o.Amount
		}
		if captured[o.ID] != want || final && want == 0 || refunded[o.ID] != o.Back {
			moneyOK = false
			problems = append(problems, fmt.Sprintf("money: order %s is %s at %d with returns of %d, captured %d and refunded %d",
				o.ID, o.Status, want, o.Back, captured[o.ID], refunded[o.ID]))
		}
		delete(captured, o.ID)
	}
	if len(captured) > 0 {
		moneyOK = false
		problems = append(problems, fmt.Sprintf("money: %d payments belong to no order", len(captured)))
	}
	if extra := len(placed) - orders; extra > 0 {
		duplicates += extra
		problems = append(problems, fmt.Sprintf("duplicates: %d orders for %d requests", len(placed), orders))
	}
	return stockOK, moneyOK, duplicates, problems, nil
}

func collect[T any](ctx context.Context, url, query string) ([]T, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return all, nil
}
