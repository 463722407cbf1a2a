package order

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

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
		consumer.Handle(shop.CreateOrder, s.create),
		consumer.Handle(shop.ConfirmOrder, s.confirm),
		consumer.Handle(shop.CancelOrder, s.cancel),
		consumer.Handle(shop.OpenReturn, s.openReturn),
		consumer.Handle(shop.CancelReturn, s.cancelReturn),
		consumer.Handle(shop.CompleteReturn, s.completeReturn),
	}
}

// create stores a pending order.
func (s *Service) create(ctx context.Context, tx pgx.Tx, q shop.CreateOrderRequest) (shop.OrderCreated, error) {
	id, err := orderID(q.OrderID)
	if err != nil {
		return shop.OrderCreated{}, err
	}
	items, err := json.Marshal(q.Items)
	if err != nil {
		return shop.OrderCreated{}, consumer.Terminal(fmt.Errorf("create order %s: %w", id, err))
	}
	_, err = tx.Exec(ctx, "insert into orders (id, customer, currency, items) values ($1, $2, $3, $4)",
		id, q.Customer, q.Currency, items)
	if err != nil {
		return shop.OrderCreated{}, fmt.Errorf("create order %s: %w", id, err)
	}
	return shop.OrderCreated{OrderID: q.OrderID}, consumer.Emit(ctx, shop.OrderPlaced, q.OrderID, shop.OrderChanged{
		OrderID: q.OrderID, Customer: q.Customer, Currency: q.Currency, Status: statusPending,
	})
}

// confirm makes a pending order final. Confirming a confirmed one changes
// nothing; a cancelled one cannot be confirmed any more.
func (s *Service) confirm(ctx context.Context, tx pgx.Tx, q shop.ConfirmOrderRequest) (events.None, error) {
	id, err := orderID(q.OrderID)
	if err != nil {
		return events.None{}, err
	}
	changed, err := change(ctx, tx, id, statusConfirmed, `
		update orders set status = 'confirmed', total = $2, updated_at = clock_timestamp()
		where id = $1 and status = 'pending'
		returning customer, currency, total`, id, q.Total)
	if err != nil || changed == nil {
		return events.None{}, err
	}
	return events.None{}, consumer.Emit(ctx, shop.OrderConfirmed, q.OrderID, *changed)
}

// cancel makes a pending order void. Cancelling a cancelled one changes nothing;
// a confirmed one cannot be cancelled any more.
func (s *Service) cancel(ctx context.Context, tx pgx.Tx, q shop.CancelOrderRequest) (events.None, error) {
	id, err := orderID(q.OrderID)
	if err != nil {
		return events.None{}, err
	}
	changed, err := change(ctx, tx, id, statusCancelled, `
		update orders set status = 'cancelled', reason = $2, updated_at = clock_timestamp()
		where id = $1 and status = 'pending'
		returning customer, currency, coalesce(total, 0)`, id, q.Reason)
	if err != nil || changed == nil {
		return events.None{}, err
	}
	return events.None{}, consumer.Emit(ctx, shop.OrderCancelled, q.OrderID, *changed)
}

// change runs an update that moves a pending order to status and returns the
// order as it then is; nil when it had that status before.
func change(ctx context.Context, tx pgx.Tx, id uuid.UUID, status, update string, args ...any) (*shop.OrderChanged, error) {
	changed := &shop.OrderChanged{OrderID: id.String(), Status: status}
	err := tx.QueryRow(ctx, update, args...).Scan(&changed.Customer, &changed.Currency, &changed.Total)
	if err == nil {
		return changed, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("order %s to %s: %w", id, status, err)
	}
	var now string
	err = tx.QueryRow(ctx, "select status from orders where id = $1", id).Scan(&now)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, consumer.Terminal(fmt.Errorf("order %s to %s: there is no such order", id, status))
	case err != nil:
		return nil, fmt.Errorf("order %s to %s: %w", id, status, err)
	case now != status:
		return nil, consumer.Terminal(fmt.Errorf("order %s to %s: it is %s", id, status, now))
	}
	return nil, nil
}

func orderID(id string) (uuid.UUID, error) {
	order, err := uuid.Parse(id)
	if err != nil {
		return uuid.UUID{}, consumer.Terminal(fmt.Errorf("order id %q: %w", id, err))
	}
	return order, nil
}
