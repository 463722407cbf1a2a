package payment

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

// Name of the service: of its consumer and so of its events' source.
const Name = "payment"

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the service.
func Migrations() fs.FS { return migrations }

// Service takes payments. It is safe for concurrent use.
type Service struct {
	pool      *pgxpool.Pool
	logger    *slog.Logger
	wakeRelay func()
	stored    chan struct{} // capacity 1: a payment that owes an answer is about to commit
}

// New returns the service on its own database, which must have its tables and
// those of the consumer and the outbox. The consumer that feeds its handlers
// must be called [Name], and [Service.Run] must run beside it. wakeRelay is
// called when Run has committed to the outbox.
func New(pool *pgxpool.Pool, wakeRelay func(), logger *slog.Logger) *Service {
	return &Service{pool: pool, logger: logger, wakeRelay: wakeRelay, stored: make(chan struct{}, 1)}
}

// Handlers returns the commands that the service obeys.
func (s *Service) Handlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.Handle(shop.AuthorizePayment, s.authorize),
		consumer.Handle(shop.VoidPayment, s.void),
		consumer.Handle(shop.CapturePayment, s.capture),
		consumer.Handle(shop.RefundPayment, s.refund),
	}
}

// authorize stores the payment with the processor's approval, if that comes at
// once. Every other answer is sent by Run: a slow one because it is not there
// yet, and a "no" because a rejection returned from a handler rolls back what
// the handler wrote, while a declined payment is to be seen afterwards.
func (s *Service) authorize(ctx context.Context, tx pgx.Tx, q shop.AuthorizePaymentRequest) (shop.PaymentAuthorized, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return shop.PaymentAuthorized{}, err
	}
	if q.Amount < 0 {
		return shop.PaymentAuthorized{}, consumer.Terminal(fmt.Errorf("authorize payment of order %s: amount %d", order, q.Amount))
	}
	answer := askToAuthorize(q.Token)
	var (
		status        = "authorized"
		authorization = authorizationID(order)
		deferredKey   *uuid.UUID
		settleAfter   *time.Duration // nil: nothing to wait for
	)
	if !answer.approvedAtOnce() {
		status, authorization = "authorizing", nil
		key := consumer.DeferredKey(ctx)
		deferredKey = &key
		if !answer.never {
			settleAfter = &answer.after
		}
	}
	tag, err := tx.Exec(ctx, `
		insert into payment (order_id, amount, currency, token, status, authorization_id, deferred_key, settle_at)
		values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + $8::interval)
		on conflict (order_id) do nothing`,
		order, q.Amount, q.Currency, q.Token, status, authorization, deferredKey, settleAfter)
	switch {
	case err != nil:
		return shop.PaymentAuthorized{}, fmt.Errorf("authorize payment of order %s: %w", order, err)
	case tag.RowsAffected() == 0:
		return shop.PaymentAuthorized{}, consumer.Terminal(fmt.Errorf("authorize payment of order %s: it has one already", order))
	case authorization == nil:
		s.announce()
		return shop.PaymentAuthorized{}, consumer.ErrDeferred
	}
	return shop.PaymentAuthorized{AuthorizationID: authorization.String()}, nil
}

// void lets the money go, or the wait for an answer that has not come.
func (s *Service) void(ctx context.Context, tx pgx.Tx, q shop.VoidPaymentRequest) (events.None, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return events.None{}, err
	}
	// The outer select reads the payment as it was before.
	var before string
	err = tx.QueryRow(ctx, `
		with voided as (
			update payment set status = 'voided', settle_at = null, updated_at = clock_timestamp()
			where order_id = $1 and status in ('authorizing', 'authorized')
		)
		select status from payment where order_id = $1`, order).Scan(&before)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // never authorized
		return events.None{}, nil
	case err != nil:
		return events.None{}, fmt.Errorf("void payment of order %s: %w", order, err)
	case before == "captured":
		return events.None{}, consumer.Terminal(fmt.Errorf("void payment of order %s: the money was taken", order))
	}
	return events.None{}, nil
}

// capture takes the money that is held. A refusal of the processor is a
// rejection, with which the update is rolled back.
func (s *Service) capture(ctx context.Context, tx pgx.Tx, q shop.CapturePaymentRequest) (shop.PaymentCaptured, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return shop.PaymentCaptured{}, err
	}
	var (
		amount int64
		token  string
	)
	err = tx.QueryRow(ctx, `
		update payment set status = 'captured', updated_at = clock_timestamp()
		where order_id = $1 and status in ('authorized', 'captured')
		returning amount, token`, order).Scan(&amount, &token)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return shop.PaymentCaptured{}, consumer.Terminal(fmt.Errorf("capture payment of order %s: it is not authorized", order))
	case err != nil:
		return shop.PaymentCaptured{}, fmt.Errorf("capture payment of order %s: %w", order, err)
	}
	if err := askToCapture(token); err != nil {
		return shop.PaymentCaptured{}, err
	}
	return shop.PaymentCaptured{CapturedAmount: amount}, nil
}

func orderID(id string) (uuid.UUID, error) {
	order, err := uuid.Parse(id)
	if err != nil {
		return uuid.UUID{}, consumer.Terminal(fmt.Errorf("order id %q: %w", id, err))
	}
	return order, nil
}

// authorizationID is what the processor calls its approval: always the same for
// an order.
func authorizationID(order uuid.UUID) *uuid.UUID {
	id := uuid.MustParse(events.DeriveID(order.String(), "authorization"))
	return &id
}
