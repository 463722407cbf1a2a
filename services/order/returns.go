package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

// Statuses of an order of which something came back.
const (
	statusPartiallyReturned = "partially_returned"
	statusReturned          = "returned"
)

// openReturn takes note of a return. Whoever changes the returns of an order holds
// its row, so no two returns take the same goods.
func (s *Service) openReturn(ctx context.Context, tx pgx.Tx, q shop.OpenReturnRequest) (shop.ReturnOpened, error) {
	id, order, err := returnIDs(q.ReturnID, q.OrderID)
	if err != nil {
		return shop.ReturnOpened{}, err
	}
	var (
		status  string
		reply   shop.ReturnOpened
		content []byte
	)
	err = tx.QueryRow(ctx, "select status, customer, currency, items from orders where id = $1 for no key update", order).
		Scan(&status, &reply.Customer, &reply.Currency, &content)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return shop.ReturnOpened{}, events.Reject(shop.UnknownOrder, "there is no order %s", order)
	case err != nil:
		return shop.ReturnOpened{}, fmt.Errorf("open return %s: %w", id, err)
	case status == statusReturned:
		return shop.ReturnOpened{}, events.Reject(shop.AlreadyReturned, "all of the order has been returned")
	case status != statusConfirmed && status != statusPartiallyReturned:
		return shop.ReturnOpened{}, events.Reject(shop.OrderNotConfirmed, "the order is %s", status)
	}
	ordered, err := quantities(content)
	if err != nil {
		return shop.ReturnOpened{}, fmt.Errorf("open return %s: %w", id, err)
	}
	before, err := returned(ctx, tx, order, "open", "completed")
	if err != nil {
		return shop.ReturnOpened{}, fmt.Errorf("open return %s: %w", id, err)
	}
	wanted, err := sum(q.Items)
	if err != nil {
		return shop.ReturnOpened{}, fmt.Errorf("open return %s: %w", id, err)
	}
	for _, sku := range slices.Sorted(maps.Keys(wanted)) {
		switch {
		case wanted[sku] > ordered[sku]:
			return shop.ReturnOpened{}, events.Reject(shop.ItemNotOrdered, "%d of %s were ordered", ordered[sku], sku)
		case wanted[sku] > ordered[sku]-before[sku]:
			return shop.ReturnOpened{}, events.Reject(shop.AlreadyReturned, "%d of %d %s have been returned, or are about to be", before[sku], ordered[sku], sku)
		}
	}
	if err := storeReturn(ctx, tx, id, order, q.Reason, wanted); err != nil {
		return shop.ReturnOpened{}, err
	}
	return reply, nil
}

func storeReturn(ctx context.Context, tx pgx.Tx, id, order uuid.UUID, reason string, lines map[string]int64) error {
	skus := slices.Sorted(maps.Keys(lines))
	counts := make([]int64, len(skus))
	for i, sku := range skus {
		counts[i] = lines[sku]
	}
	tag, err := tx.Exec(ctx, `
		with fresh as (
			insert into order_return (id, order_id, reason) values ($1, $2, $3) on conflict do nothing returning id
		)
		insert into order_return_line (return_id, sku, quantity)
		select fresh.id, l.sku, l.quantity from fresh, unnest($4::text[], $5::bigint[]) as l (sku, quantity)`,
		id, order, reason, skus, counts)
	switch {
	case err != nil:
		return fmt.Errorf("open return %s: %w", id, err)
	case tag.RowsAffected() == 0:
		return consumer.Terminal(fmt.Errorf("open return %s: another command has opened it", id))
	}
	return nil
}

// cancelReturn drops an open return. One that is completed cannot be dropped any
// more.
func (s *Service) cancelReturn(ctx context.Context, tx pgx.Tx, q shop.CancelReturnRequest) (events.None, error) {
	id, err := orderID(q.ReturnID)
	if err != nil {
		return events.None{}, err
	}
	// The outer select reads the return as it was before.
	var before string
	err = tx.QueryRow(ctx, `
		with cancelled as (
			update order_return set status = 'cancelled', updated_at = clock_timestamp()
			where id = $1 and status = 'open'
		)
		select status from order_return where id = $1`, id).Scan(&before)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // never opened
		return events.None{}, nil
	case err != nil:
		return events.None{}, fmt.Errorf("cancel return %s: %w", id, err)
	case before == "completed":
		return events.None{}, consumer.Terminal(fmt.Errorf("cancel return %s: it is completed", id))
	}
	return events.None{}, nil
}

// completeReturn makes a return final and tells so. Completing a completed one
// changes nothing.
func (s *Service) completeReturn(ctx context.Context, tx pgx.Tx, q shop.CompleteReturnRequest) (shop.ReturnCompleted, error) {
	id, err := orderID(q.ReturnID)
	if err != nil {
		return shop.ReturnCompleted{}, err
	}
	var (
		status  string
		content []byte
		fact    = shop.OrderReturn{ReturnID: q.ReturnID, Refund: q.Refund}
		order   uuid.UUID
	)
	err = tx.QueryRow(ctx, `
		select o.id, o.customer, o.currency, o.status, o.items
		from order_return as r join orders as o on o.id = r.order_id
		where r.id = $1
		for no key update of o`, id).Scan(&order, &fact.Customer, &fact.Currency, &status, &content)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return shop.ReturnCompleted{}, consumer.Terminal(fmt.Errorf("complete return %s: there is no such return", id))
	case err != nil:
		return shop.ReturnCompleted{}, fmt.Errorf("complete return %s: %w", id, err)
	}
	var now string
	err = tx.QueryRow(ctx, `
		update order_return set status = 'completed', refund = $2, updated_at = clock_timestamp()
		where id = $1 and status = 'open'
		returning status`, id, q.Refund).Scan(&now)
	if errors.Is(err, pgx.ErrNoRows) {
		return repeatedReturn(ctx, tx, id, status)
	} else if err != nil {
		return shop.ReturnCompleted{}, fmt.Errorf("complete return %s: %w", id, err)
	}
	if fact.OrderStatus, err = markReturned(ctx, tx, order, content); err != nil {
		return shop.ReturnCompleted{}, fmt.Errorf("complete return %s: %w", id, err)
	}
	fact.OrderID = order.String()
	return shop.ReturnCompleted{OrderStatus: fact.OrderStatus}, consumer.Emit(ctx, shop.OrderReturned, fact.OrderID, fact)
}

// repeatedReturn answers for a return that is not open.
func repeatedReturn(ctx context.Context, tx pgx.Tx, id uuid.UUID, order string) (shop.ReturnCompleted, error) {
	var status string
	err := tx.QueryRow(ctx, "select status from order_return where id = $1", id).Scan(&status)
	switch {
	case err != nil:
		return shop.ReturnCompleted{}, fmt.Errorf("complete return %s: %w", id, err)
	case status != "completed":
		return shop.ReturnCompleted{}, consumer.Terminal(fmt.Errorf("complete return %s: it is %s", id, status))
	}
	return shop.ReturnCompleted{OrderStatus: order}, nil
}

// markReturned sets the status of an order after a return of it was completed.
func markReturned(ctx context.Context, tx pgx.Tx, order uuid.UUID, items []byte) (status string, err error) {
	ordered, err := quantities(items)
	if err != nil {
		return "", err
	}
	back, err := returned(ctx, tx, order, "completed")
	if err != nil {
		return "", err
	}
	status = statusReturned
	if !maps.Equal(ordered, back) {
		status = statusPartiallyReturned
	}
	_, err = tx.Exec(ctx, "update orders set status = $2, updated_at = clock_timestamp() where id = $1", order, status)
	return status, err
}

// returned adds up what returns of an order with those statuses have taken.
func returned(ctx context.Context, tx pgx.Tx, order uuid.UUID, statuses ...string) (map[string]int64, error) {
	rows, err := tx.Query(ctx, `
		select l.sku, sum(l.quantity)::bigint
		from order_return as r join order_return_line as l on l.return_id = r.id
		where r.order_id = $1 and r.status = any($2)
		group by l.sku`, order, statuses)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]int64)
	var (
		sku      string
		quantity int64
	)
	_, err = pgx.ForEachRow(rows, []any{&sku, &quantity}, func() error { taken[sku] = quantity; return nil })
	return taken, err
}

// quantities reads the items of an order, as they are stored, by sku.
func quantities(content []byte) (map[string]int64, error) {
	var items []shop.Item
	if err := json.Unmarshal(content, &items); err != nil {
		return nil, fmt.Errorf("items of the order: %w", err)
	}
	return sum(items)
}

func sum(items []shop.Item) (map[string]int64, error) {
	all := make(map[string]int64, len(items))
	for _, item := range items {
		if item.Quantity < 1 {
			return nil, consumer.Terminal(fmt.Errorf("a quantity of %d of %s", item.Quantity, item.SKU))
		}
		all[item.SKU] += item.Quantity
	}
	if len(all) == 0 {
		return nil, consumer.Terminal(errors.New("no items"))
	}
	return all, nil
}

func returnIDs(returnID, order string) (id, of uuid.UUID, err error) {
	if id, err = orderID(returnID); err != nil {
		return id, of, err
	}
	of, err = orderID(order)
	return id, of, err
}
