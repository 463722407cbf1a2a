package payment

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
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
		consumer.HandleAll(shop.AuthorizePayment, s.authorize),
		consumer.Handle(shop.VoidPayment, s.void),
		consumer.HandleAll(shop.CapturePayment, s.capture),
		consumer.Handle(shop.RefundPayment, s.refund),
	}
}

// authorize stores payments with the processor's approval, where that comes at
// once. Every other answer is sent by Run: a slow one because it is not there
// yet, and a "no" because a declined payment is to be seen afterwards, while a
// command that is rejected leaves nothing behind.
func (s *Service) authorize(ctx context.Context, tx pgx.Tx, payments []consumer.Item[shop.AuthorizePaymentRequest, shop.PaymentAuthorized]) error {
	var stored struct {
		orders                       []uuid.UUID
		amounts                      []int64
		currencies, tokens, statuses []string
		authorizations, deferredKeys []*uuid.UUID
		settleAfter                  []*time.Duration // nil: nothing to wait for
	}
	deferred := false
	for i := range payments {
		p := &payments[i]
		q := &p.Request
		order, err := orderID(q.OrderID)
		if err != nil {
			return err
		}
		if q.Amount < 0 {
			return consumer.Terminal(fmt.Errorf("authorize payment of order %s: amount %d", order, q.Amount))
		}
		answer := askToAuthorize(q.Token)
		status, authorization, deferredKey, settleAfter := "authorized", authorizationID(order), (*uuid.UUID)(nil), (*time.Duration)(nil)
		if answer.approvedAtOnce() {
			p.Reply.AuthorizationID = authorization.String()
		} else {
			key := consumer.DeferredKey(p.Context)
			status, authorization, deferredKey = "authorizing", nil, &key
			if !answer.never {
				settleAfter = &answer.after
			}
			p.Err, deferred = consumer.ErrDeferred, true
		}
		stored.orders, stored.amounts = append(stored.orders, order), append(stored.amounts, q.Amount)
		stored.currencies, stored.tokens = append(stored.currencies, q.Currency), append(stored.tokens, q.Token)
		stored.statuses, stored.authorizations = append(stored.statuses, status), append(stored.authorizations, authorization)
		stored.deferredKeys, stored.settleAfter = append(stored.deferredKeys, deferredKey), append(stored.settleAfter, settleAfter)
	}
	tag, err := tx.Exec(ctx, `
		insert into payment (order_id, amount, currency, token, status, authorization_id, deferred_key, settle_at)
		select order_id, amount, currency, token, status, authorization_id, deferred_key, clock_timestamp() + settle_after
		from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::interval[])
			as p (order_id, amount, currency, token, status, authorization_id, deferred_key, settle_after)
		on conflict (order_id) do nothing`,
		stored.orders, stored.amounts, stored.currencies, stored.tokens, stored.statuses, stored.authorizations,
		stored.deferredKeys, stored.settleAfter)
	switch {
	case err != nil:
		return fmt.Errorf("authorize payments: %w", err)
	case int(tag.RowsAffected()) < len(payments): // which one it is shows when each is tried alone
		return consumer.Terminal(fmt.Errorf("authorize payment of order %s: it has one already", stored.orders[0]))
	}
	if deferred {
		s.announce()
	}
	return nil
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

// capture takes money that is held. What the processor refuses stays as it was.
func (s *Service) capture(ctx context.Context, tx pgx.Tx, payments []consumer.Item[shop.CapturePaymentRequest, shop.PaymentCaptured]) error {
	orders := make([]uuid.UUID, len(payments))
	for i := range payments {
		order, err := orderID(payments[i].Request.OrderID)
		if err != nil {
			return err
		}
		orders[i] = order
	}
	rows, err := tx.Query(ctx, `
		select order_id, amount, token from payment
		where order_id = any($1) and status in ('authorized', 'captured')
		for update`, orders)
	if err != nil {
		return fmt.Errorf("capture payments: %w", err)
	}
	type held struct {
		Order  uuid.UUID
		Amount int64
		Token  string
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[held])
	if err != nil {
		return fmt.Errorf("capture payments: %w", err)
	}
	taken := make([]uuid.UUID, 0, len(orders))
	for i, order := range orders {
		at := slices.IndexFunc(found, func(h held) bool { return h.Order == order })
		if at < 0 {
			return consumer.Terminal(fmt.Errorf("capture payment of order %s: it is not authorized", order))
		}
		if payments[i].Err = askToCapture(found[at].Token); payments[i].Err == nil {
			payments[i].Reply.CapturedAmount = found[at].Amount
			taken = append(taken, order)
		}
	}
	if _, err := tx.Exec(ctx, `
		update payment set status = 'captured', updated_at = clock_timestamp() where order_id = any($1)`, taken); err != nil {
		return fmt.Errorf("capture payments: %w", err)
	}
	return nil
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
