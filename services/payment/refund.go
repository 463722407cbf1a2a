package payment

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
)

// refund pays a part of a captured payment back. A refund that was paid before is
// answered and not paid again, whatever command asks for it. A refusal of the
// processor is a rejection, with which the update is rolled back.
func (s *Service) refund(ctx context.Context, tx pgx.Tx, q shop.RefundPaymentRequest) (shop.PaymentRefunded, error) {
	order, err := orderID(q.OrderID)
	if err != nil {
		return shop.PaymentRefunded{}, err
	}
	id, err := orderID(q.RefundID)
	if err != nil {
		return shop.PaymentRefunded{}, err
	}
	if q.Amount < 0 {
		return shop.PaymentRefunded{}, consumer.Terminal(fmt.Errorf("refund %s of order %s: amount %d", id, order, q.Amount))
	}
	var (
		reply shop.PaymentRefunded
		token string
	)
	// The sum is compared in the update itself: after a wait for the row it sees what
	// another refund has left. The insert sees to it that one id is paid once.
	err = tx.QueryRow(ctx, `
		with paid as (
			update payment set refunded = refunded + $3, updated_at = clock_timestamp()
			where order_id = $2 and status = 'captured' and currency = $4 and $3 <= amount - refunded
				and not exists (select from refund where id = $1)
			returning refunded, token
		), kept as (
			insert into refund (id, order_id, amount) select $1, $2, $3 from paid
		)
		select refunded, token from paid`, id, order, q.Amount, q.Currency).Scan(&reply.Refunded, &token)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return notRefunded(ctx, tx, id, order, q)
	case err != nil:
		return shop.PaymentRefunded{}, fmt.Errorf("refund %s of order %s: %w", id, order, err)
	}
	if err := askToRefund(token); err != nil {
		return shop.PaymentRefunded{}, err
	}
	return reply, nil
}

// notRefunded tells why nothing was paid back.
func notRefunded(ctx context.Context, tx pgx.Tx, id, order uuid.UUID, q shop.RefundPaymentRequest) (shop.PaymentRefunded, error) {
	var (
		status, currency string
		amount, refunded int64
		before           *int64 // of the refund of this id
		of               *uuid.UUID
	)
	err := tx.QueryRow(ctx, `
		select p.status, p.currency, p.amount, p.refunded, r.amount, r.order_id
		from payment as p left join refund as r on r.id = $1
		where p.order_id = $2`, id, order).Scan(&status, &currency, &amount, &refunded, &before, &of)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return shop.PaymentRefunded{}, events.Reject(shop.PaymentNotCaptured, "there is no payment for order %s", order)
	case err != nil:
		return shop.PaymentRefunded{}, fmt.Errorf("refund %s of order %s: %w", id, order, err)
	case before != nil && *of == order && *before == q.Amount:
		return shop.PaymentRefunded{Refunded: refunded}, nil
	case before != nil:
		return shop.PaymentRefunded{}, consumer.Terminal(fmt.Errorf("refund %s of order %s: %d were paid back for order %s by that id", id, order, *before, *of))
	case currency != q.Currency:
		return shop.PaymentRefunded{}, consumer.Terminal(fmt.Errorf("refund %s of order %s: %s of a payment in %s", id, order, q.Currency, currency))
	case status != "captured":
		return shop.PaymentRefunded{}, events.Reject(shop.PaymentNotCaptured, "the payment is %s", status)
	}
	return shop.PaymentRefunded{}, events.Reject(shop.RefundTooHigh, "%d of %d have been paid back", refunded, amount)
}
