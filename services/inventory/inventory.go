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
		consumer.HandleAll(shop.ReserveStock, s.reserve),
		consumer.Handle(shop.ReleaseStock, s.release),
		consumer.HandleAll(shop.CommitStock, s.commit),
		consumer.Handle(shop.RestockItem, s.restock),
		consumer.Handle(shop.WithdrawItem, s.withdraw),
		consumer.Handle(shop.ShelveStock, s.shelve),
	}
}

// reserve holds all lines of each order, or rejects the order. The orders that
// arrive together want the same few rows, so these are locked once, the orders
// served from them in turn, and the rows written once.
func (s *Service) reserve(ctx context.Context, tx pgx.Tx, orders []reserving) error {
	var all []string
	for i := range orders {
		wanted, err := bySKU(orders[i].Request.Items)
		if err != nil {
			return err
		}
		all = slices.AppendSeq(all, maps.Keys(wanted))
	}
	shelf, err := lockStock(ctx, tx, all)
	if err != nil {
		return err
	}
	var held reservations
	for i := range orders {
		o := &orders[i]
		id, err := orderID(o.Request.OrderID)
		if err != nil {
			return err
		}
		if o.Err = shelf.hold(o.Request, &o.Reply); o.Err == nil {
			held.add(id, o.Reply.Lines)
		}
	}
	return held.store(ctx, tx)
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

// commit takes what each order holds off the shelf for good.
func (s *Service) commit(ctx context.Context, tx pgx.Tx, orders []consumer.Item[shop.CommitStockRequest, events.None]) error {
	ids := make([]uuid.UUID, len(orders))
	for i := range orders {
		id, err := orderID(orders[i].Request.OrderID)
		if err != nil {
			return err
		}
		ids[i] = id
	}
	// The outer select reads reservation as it was before: rows that are neither
	// held nor committed mean that the order has nothing to take.
	rows, err := tx.Query(ctx, `
		with committed as (
			update reservation set status = 'committed', updated_at = clock_timestamp()
			where order_id = any($1) and status = 'held'
			returning sku, quantity
		), wanted as (
			select sku, sum(quantity)::bigint as quantity from committed group by sku
		), locked as (
			select stock.sku, wanted.quantity
			from stock join wanted using (sku) order by stock.sku for update of stock
		), taken as (
			update stock set on_hand = stock.on_hand - locked.quantity, reserved = stock.reserved - locked.quantity
			from locked where stock.sku = locked.sku
		)
		select order_id from reservation where order_id = any($1)
		group by order_id having bool_and(status in ('held', 'committed'))`, ids)
	if err != nil {
		return fmt.Errorf("commit stock: %w", err)
	}
	ready, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("commit stock: %w", err)
	}
	for _, id := range ids {
		if !slices.Contains(ready, id) {
			return consumer.Terminal(fmt.Errorf("commit stock of order %s: nothing is held for it", id))
		}
	}
	return nil
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
