package inventory

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

type reserving = consumer.Item[shop.ReserveStockRequest, shop.StockReserved]

// shelf is the stock of some skus, locked until the transaction ends.
type shelf map[string]*stocked

type stocked struct {
	available, price int64
	currency         string
}

// lockStock locks rows in the order of their sku, so that two transactions never
// wait for each other. After a wait it has what the other one left.
func lockStock(ctx context.Context, tx pgx.Tx, skus []string) (shelf, error) {
	rows, err := tx.Query(ctx, `
		select sku, on_hand - reserved, price, currency from stock where sku = any($1) order by sku for update`, skus)
	if err != nil {
		return nil, fmt.Errorf("lock stock: %w", err)
	}
	found := make(shelf)
	var sku string
	var row stocked
	_, err = pgx.ForEachRow(rows, []any{&sku, &row.available, &row.price, &row.currency}, func() error {
		kept := row
		found[sku] = &kept
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lock stock: %w", err)
	}
	return found, nil
}

// hold takes all lines of an order from the shelf, or none of them and returns
// why.
func (f shelf) hold(q shop.ReserveStockRequest, reply *shop.StockReserved) error {
	wanted, err := bySKU(q.Items)
	if err != nil {
		return err
	}
	var short error
	for _, sku := range slices.Sorted(maps.Keys(wanted)) {
		row, quantity := f[sku], wanted[sku]
		switch {
		case row == nil:
			return events.Reject(shop.UnknownSKU, "there is no %s", sku)
		case row.currency != q.Currency:
			return events.Reject(shop.UnsupportedCurrency, "prices are in %s", row.currency)
		case row.available < quantity && short == nil:
			short = events.Reject(shop.OutOfStock, "fewer than %d of %s are left", quantity, sku)
		}
	}
	if short != nil {
		return short
	}
	for _, sku := range slices.Sorted(maps.Keys(wanted)) {
		row, quantity := f[sku], wanted[sku]
		row.available -= quantity
		reply.Lines = append(reply.Lines, shop.Line{SKU: sku, Quantity: quantity, UnitPrice: row.price})
		reply.Total += quantity * row.price
	}
	return nil
}

// reservations are lines that orders hold, to be written at once.
type reservations struct {
	orders             []uuid.UUID
	skus               []string
	quantities, prices []int64
}

func (r *reservations) add(order uuid.UUID, lines []shop.Line) {
	for _, line := range lines {
		r.orders, r.skus = append(r.orders, order), append(r.skus, line.SKU)
		r.quantities, r.prices = append(r.quantities, line.Quantity), append(r.prices, line.UnitPrice)
	}
}

// store writes the lines. Their stock must be locked.
func (r *reservations) store(ctx context.Context, tx pgx.Tx) error {
	if len(r.orders) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		with line as (
			insert into reservation (order_id, sku, quantity, unit_price)
			select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
			returning sku, quantity
		), held as (
			select sku, sum(quantity) as quantity from line group by sku
		)
		update stock set reserved = stock.reserved + held.quantity from held where stock.sku = held.sku`,
		r.orders, r.skus, r.quantities, r.prices)
	if err != nil {
		return fmt.Errorf("reserve stock: %w", err)
	}
	return nil
}
