package order

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

// Name of the service: of its consumer and so of its events' source.
const Name = "order"

// Statuses of an order, as the table's check lists them.
const (
	statusPending   = "pending"
	statusConfirmed = "confirmed"
	statusCancelled = "cancelled"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the service.
func Migrations() fs.FS { return migrations }

// Service keeps the orders. It is safe for concurrent use.
type Service struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
}

// New returns the service on its own database.
func New(pool *pgxpool.Pool, logger *slog.Logger) *Service {
	return &Service{pool: pool, logger: logger}
}

// Handlers returns the commands that the service obeys.
func (s *Service) Handlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.HandleAll(shop.CreateOrder, s.create),
		consumer.HandleAll(shop.ConfirmOrder, s.confirm),
		consumer.Handle(shop.CancelOrder, s.cancel),
		consumer.Handle(shop.OpenReturn, s.openReturn),
		consumer.Handle(shop.CancelReturn, s.cancelReturn),
		consumer.Handle(shop.CompleteReturn, s.completeReturn),
	}
}

// create stores pending orders: all that arrive together, by one statement.
func (s *Service) create(ctx context.Context, tx pgx.Tx, orders []consumer.Item[shop.CreateOrderRequest, shop.OrderCreated]) error {
	var (
		n                     = len(orders)
		ids                   = make([]uuid.UUID, n)
		customers, currencies = make([]string, n), make([]string, n)
		lines                 = make([]string, n) // JSON
	)
	for i := range orders {
		q := &orders[i].Request
		id, err := orderID(q.OrderID)
		if err != nil {
			return err
		}
		items, err := json.Marshal(q.Items)
		if err != nil {
			return consumer.Terminal(fmt.Errorf("create order %s: %w", id, err))
		}
		ids[i], customers[i], currencies[i], lines[i] = id, q.Customer, q.Currency, string(items)
		orders[i].Reply = shop.OrderCreated{OrderID: q.OrderID}
		if err := consumer.Emit(orders[i].Context, shop.OrderPlaced, q.OrderID, shop.OrderChanged{
			OrderID: q.OrderID, Customer: q.Customer, Currency: q.Currency, Status: statusPending,
		}); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `
		insert into orders (id, customer, currency, items)
		select id, customer, currency, items::jsonb
		from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as o (id, customer, currency, items)`,
		ids, customers, currencies, lines)
	if err != nil {
		return fmt.Errorf("create orders: %w", err)
	}
	return nil
}

// confirm makes pending orders final. Confirming a confirmed one changes nothing;
// a cancelled one cannot be confirmed any more.
func (s *Service) confirm(ctx context.Context, tx pgx.Tx, orders []consumer.Item[shop.ConfirmOrderRequest, events.None]) error {
	ids, totals := make([]uuid.UUID, len(orders)), make([]int64, len(orders))
	for i := range orders {
		id, err := orderID(orders[i].Request.OrderID)
		if err != nil {
			return err
		}
		ids[i], totals[i] = id, orders[i].Request.Total
	}
	// The outer select reads the orders as they were before.
	rows, err := tx.Query(ctx, `
		with confirming as (
			select * from unnest($1::uuid[], $2::bigint[]) as c (id, total)
		), confirmed as (
			update orders set status = 'confirmed', total = confirming.total, updated_at = clock_timestamp()
			from confirming where orders.id = confirming.id and orders.status = 'pending'
		)
		select id, customer, currency, status from orders where id = any($1)`, ids, totals)
	if err != nil {
		return fmt.Errorf("confirm orders: %w", err)
	}
	type before struct {
		ID                         uuid.UUID
		Customer, Currency, Status string
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[before])
	if err != nil {
		return fmt.Errorf("confirm orders: %w", err)
	}
	for i := range orders {
		at := slices.IndexFunc(found, func(o before) bool { return o.ID == ids[i] })
		switch {
		case at < 0:
			return consumer.Terminal(fmt.Errorf("order %s to %s: there is no such order", ids[i], statusConfirmed))
		case found[at].Status == statusConfirmed:
			continue
		case found[at].Status != statusPending:
			return consumer.Terminal(fmt.Errorf("order %s to %s: it is %s", ids[i], statusConfirmed, found[at].Status))
		}
		if err := consumer.Emit(orders[i].Context, shop.OrderConfirmed, orders[i].Request.OrderID, shop.OrderChanged{
			OrderID: ids[i].String(), Customer: found[at].Customer, Currency: found[at].Currency,
			Status: statusConfirmed, Total: totals[i],
		}); err != nil {
			return err
		}
		found[at].Status = statusConfirmed // for another command of the same order
	}
	return nil
}

// cancel makes a pending order void. Cancelling a cancelled one changes nothing;
// a confirmed one cannot be cancelled any more.
func (s *Service) cancel(ctx context.Context, tx pgx.Tx, q shop.CancelOrderRequest) (events.None, error) {
	id, err := orderID(q.OrderID)
	if err != nil {
		return events.None{}, err
	}
	changed := shop.OrderChanged{OrderID: id.String(), Status: statusCancelled}
	var before string
	// The outer select reads the order as it was before.
	err = tx.QueryRow(ctx, `
		with cancelled as (
			update orders set status = 'cancelled', reason = $2, updated_at = clock_timestamp()
			where id = $1 and status = 'pending'
		)
		select status, customer, currency, coalesce(total, 0) from orders where id = $1`, id, q.Reason).
		Scan(&before, &changed.Customer, &changed.Currency, &changed.Total)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return events.None{}, consumer.Terminal(fmt.Errorf("order %s to %s: there is no such order", id, statusCancelled))
	case err != nil:
		return events.None{}, fmt.Errorf("order %s to %s: %w", id, statusCancelled, err)
	case before == statusCancelled:
		return events.None{}, nil
	case before != statusPending:
		return events.None{}, consumer.Terminal(fmt.Errorf("order %s to %s: it is %s", id, statusCancelled, before))
	}
	return events.None{}, consumer.Emit(ctx, shop.OrderCancelled, q.OrderID, changed)
}

func orderID(id string) (uuid.UUID, error) {
	order, err := uuid.Parse(id)
	if err != nil {
		return uuid.UUID{}, consumer.Terminal(fmt.Errorf("order id %q: %w", id, err))
	}
	return order, nil
}
