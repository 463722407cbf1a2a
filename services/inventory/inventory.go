package inventory

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

// Name of the service: of its consumer and so of its events' source.
const Name = "inventory"

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the service and the shop's sample stock.
func Migrations() fs.FS { return migrations }

// Service keeps the stock. It is safe for concurrent use.
type Service struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
}

// New returns the service on its own database, which must have its tables and
// those of the consumer and the outbox.
func New(pool *pgxpool.Pool, logger *slog.Logger) *Service {
	return &Service{pool: pool, logger: logger}
}

// Handlers returns the commands that the service obeys.
func (s *Service) Handlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.Handle(shop.ReserveStock, s.reserve),
		consumer.Handle(shop.ReleaseStock, s.release),
		consumer.Handle(shop.CommitStock, s.commit),
		consumer.Handle(shop.RestockItem, s.restock),
		consumer.Handle(shop.WithdrawItem, s.withdraw),
		consumer.Handle(shop.ShelveStock, s.shelve),
	}
}

// reserve holds all lines of an order, or rejects the order: the consumer then
// rolls back the lines that were held.
func (s *Service) reserve(ctx context.Context, tx pgx.Tx, q shop.ReserveStockRequest) (shop.StockReserved, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return shop.StockReserved{}, err
	}
	wanted, err := bySKU(q.Items)
	if err != nil {
		return shop.StockReserved{}, err
	}
	skus := slices.Sorted(maps.Keys(wanted))
	quantities := make([]int64, len(skus))
	for i, sku := range skus {
		quantities[i] = wanted[sku]
	}
	// Rows are locked in the order of their sku before the first one changes, so
	// that two orders never wait for each other. The quantity is compared in the
	// update itself: after a wait for the lock it sees what the other one left.
	rows, err := tx.Query(ctx, `
		with line as (
			select sku, quantity from unnest($2::text[], $3::bigint[]) as l (sku, quantity)
		), locked as (
			select stock.sku from stock join line using (sku) order by stock.sku for update of stock
		), held as (
			update stock set reserved = stock.reserved + line.quantity
			from line join locked using (sku)
			where stock.sku = line.sku and stock.on_hand - stock.reserved >= line.quantity
			returning stock.sku, line.quantity, stock.price
		), kept as (
			insert into reservation (order_id, sku, quantity, unit_price)
			select $1, sku, quantity, price from held
		)
		select line.sku, line.quantity, stock.currency, held.price
		from line left join stock using (sku) left join held using (sku)
		order by line.sku`, order, skus, quantities)
	if err != nil {
		return shop.StockReserved{}, fmt.Errorf("reserve stock of order %s: %w", order, err)
	}
	type priced struct {
		SKU      string
		Quantity int64
		Currency *string // nil: no such sku
		Price    *int64  // nil: not held
	}
	lines, err := pgx.CollectRows(rows, pgx.RowToStructByPos[priced])
	if err != nil {
		return shop.StockReserved{}, fmt.Errorf("reserve stock of order %s: %w", order, err)
	}
	reply := shop.StockReserved{Lines: make([]shop.Line, 0, len(lines))}
	var short error
	for _, line := range lines {
		switch {
		case line.Currency == nil:
			return shop.StockReserved{}, events.Reject(shop.UnknownSKU, "there is no %s", line.SKU)
		case *line.Currency != q.Currency:
			return shop.StockReserved{}, events.Reject(shop.UnsupportedCurrency, "prices are in %s", *line.Currency)
		case line.Price == nil && short == nil:
			short = events.Reject(shop.OutOfStock, "fewer than %d of %s are left", line.Quantity, line.SKU)
		case line.Price != nil:
			reply.Lines = append(reply.Lines, shop.Line{SKU: line.SKU, Quantity: line.Quantity, UnitPrice: *line.Price})
			reply.Total += line.Quantity * *line.Price
		}
	}
	if short != nil {
		return shop.StockReserved{}, short
	}
	return reply, nil
}

// release gives back what an order still holds.
func (s *Service) release(ctx context.Context, tx pgx.Tx, q shop.ReleaseStockRequest) (events.None, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return events.None{}, err
	}
	_, err = tx.Exec(ctx, `
		with released as (
			update reservation set status = 'released', updated_at = clock_timestamp()
			where order_id = $1 and status = 'held'
			returning sku, quantity
		), locked as (
			select stock.sku, released.quantity
			from stock join released using (sku) order by stock.sku for update of stock
		)
		update stock set reserved = stock.reserved - locked.quantity
		from locked where stock.sku = locked.sku`, order)
	if err != nil {
		return events.None{}, fmt.Errorf("release stock of order %s: %w", order, err)
	}
	return events.None{}, nil
}

// commit takes what an order holds off the shelf for good.
func (s *Service) commit(ctx context.Context, tx pgx.Tx, q shop.CommitStockRequest) (events.None, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return events.None{}, err
	}
	// The outer select reads reservation as it was before: rows that are neither
	// held nor committed mean that the order has nothing to take.
	var ready bool
	err = tx.QueryRow(ctx, `
		with committed as (
			update reservation set status = 'committed', updated_at = clock_timestamp()
			where order_id = $1 and status = 'held'
			returning sku, quantity
		), locked as (
			select stock.sku, committed.quantity
			from stock join committed using (sku) order by stock.sku for update of stock
		), taken as (
			update stock set on_hand = stock.on_hand - locked.quantity, reserved = stock.reserved - locked.quantity
			from locked where stock.sku = locked.sku
		)
		select count(*) > 0 and bool_and(status in ('held', 'committed')) from reservation where order_id = $1`, order).Scan(&ready)
	switch {
	case err != nil:
		return events.None{}, fmt.Errorf("commit stock of order %s: %w", order, err)
	case !ready:
		return events.None{}, consumer.Terminal(fmt.Errorf("commit stock of order %s: nothing is held for it", order))
	}
	return events.None{}, nil
}

// bySKU adds up the quantities of each sku.
func bySKU(items []shop.Item) (map[string]int64, error) {
	if len(items) == 0 {
		return nil, consumer.Terminal(errors.New("an order without items"))
	}
	wanted := make(map[string]int64, len(items))
	for _, item := range items {
		if item.Quantity < 1 {
			return nil, consumer.Terminal(fmt.Errorf("a quantity of %d of %s", item.Quantity, item.SKU))
		}
		wanted[item.SKU] += item.Quantity
	}
	return wanted, nil
}

func orderID(id string) (uuid.UUID, error) {
	order, err := uuid.Parse(id)
	if err != nil {
		return uuid.UUID{}, consumer.Terminal(fmt.Errorf("order id %q: %w", id, err))
	}
	return order, nil
}
