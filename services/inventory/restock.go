package inventory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

// restock takes a line of an order back and holds it apart: nobody can buy what a
// compensation may have to give up again.
func (s *Service) restock(ctx context.Context, tx pgx.Tx, q shop.RestockItemRequest) (shop.ItemRestocked, error) {
	id, err := orderID(q.ReturnID)
	if err != nil {
		return shop.ItemRestocked{}, err
	}
	order, err := orderID(q.OrderID)
	if err != nil {
		return shop.ItemRestocked{}, err
	}
	if q.Quantity < 1 {
		return shop.ItemRestocked{}, consumer.Terminal(fmt.Errorf("restock of return %s: a quantity of %d of %s", id, q.Quantity, q.SKU))
	}
	var (
		sold, price int64
		returnable  bool
		reply       shop.ItemRestocked
	)
	// Whoever restocks a line holds what was sold of it. What others have taken back
	// is read by the statement after the wait for that, or it would not be seen.
	err = tx.QueryRow(ctx, `
		select r.quantity, r.unit_price, stock.currency, stock.returnable
		from reservation as r join stock using (sku)
		where r.order_id = $1 and r.sku = $2 and r.status = 'committed'
		for no key update of r`, order, q.SKU).Scan(&sold, &price, &reply.Currency, &returnable)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return shop.ItemRestocked{}, events.Reject(shop.ItemNotOrdered, "the order has no %s", q.SKU)
	case err != nil:
		return shop.ItemRestocked{}, fmt.Errorf("restock of return %s: %w", id, err)
	case !returnable:
		return shop.ItemRestocked{}, events.Reject(shop.NotReturnable, "%s is not taken back", q.SKU)
	case q.Quantity > sold:
		return shop.ItemRestocked{}, events.Reject(shop.ItemNotOrdered, "%d of %s were ordered", sold, q.SKU)
	}
	tag, err := tx.Exec(ctx, `
		insert into restock (return_id, sku, order_id, quantity)
		select $1, $2, $3, $4
		where $5::bigint - $4 >= (select coalesce(sum(quantity), 0) from restock where order_id = $3 and sku = $2 and status <> 'withdrawn')`,
		id, q.SKU, order, q.Quantity, sold)
	switch {
	case err != nil:
		return shop.ItemRestocked{}, fmt.Errorf("restock of return %s: %w", id, err)
	case tag.RowsAffected() == 0:
		return shop.ItemRestocked{}, events.Reject(shop.AlreadyReturned, "of %d %s too many have come back", sold, q.SKU)
	}
	reply.Refund = q.Quantity * price
	return reply, nil
}

// withdraw gives up what a return holds apart of a sku. What is on the shelf again
// stays there.
func (s *Service) withdraw(ctx context.Context, tx pgx.Tx, q shop.WithdrawItemRequest) (events.None, error) {
	id, err := orderID(q.ReturnID)
	if err != nil {
		return events.None{}, err
	}
	// The outer select reads the line as it was before.
	var before string
	err = tx.QueryRow(ctx, `
		with withdrawn as (
			update restock set status = 'withdrawn', updated_at = clock_timestamp()
			where return_id = $1 and sku = $2 and status = 'held'
		)
		select status from restock where return_id = $1 and sku = $2`, id, q.SKU).Scan(&before)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // never restocked
		return events.None{}, nil
	case err != nil:
		return events.None{}, fmt.Errorf("withdraw %s of return %s: %w", q.SKU, id, err)
	case before == "shelved":
		return events.None{}, consumer.Terminal(fmt.Errorf("withdraw %s of return %s: it is on the shelf again", q.SKU, id))
	}
	return events.None{}, nil
}

// shelve puts what a return holds apart on the shelf.
func (s *Service) shelve(ctx context.Context, tx pgx.Tx, q shop.ShelveStockRequest) (events.None, error) {
	id, err := orderID(q.ReturnID)
	if err != nil {
		return events.None{}, err
	}
	// The outer select reads restock as it was before, as in commit.
	var ready bool
	err = tx.QueryRow(ctx, `
		with shelved as (
			update restock set status = 'shelved', updated_at = clock_timestamp()
			where return_id = $1 and status = 'held'
			returning sku, quantity
		), locked as (
			select stock.sku, shelved.quantity
			from stock join shelved using (sku) order by stock.sku for update of stock
		), back as (
			update stock set on_hand = stock.on_hand + locked.quantity
			from locked where stock.sku = locked.sku
		)
		select count(*) > 0 and bool_and(status in ('held', 'shelved')) from restock where return_id = $1`, id).Scan(&ready)
	switch {
	case err != nil:
		return events.None{}, fmt.Errorf("shelve stock of return %s: %w", id, err)
	case !ready:
		return events.None{}, consumer.Terminal(fmt.Errorf("shelve stock of return %s: nothing is held for it", id))
	}
	return events.None{}, nil
}
