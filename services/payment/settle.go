package payment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
)

// Limits of the settler.
const (
	settleMax     = 50               // payments of one transaction
	settleTimeout = 10 * time.Second // of one transaction
	restMin       = time.Millisecond
	restMax       = time.Second // also what a payment waits for whose process has died
)

// Run sends the answers that the processor did not give at once, when they are
// due by the database's clock, until ctx ends; it returns nil then. What is due
// is in the database, so another process, or the next start of this one, goes on
// where this one stops. Any number of processes may run it.
func (s *Service) Run(ctx context.Context) error {
	rest := restMax
	for ctx.Err() == nil {
		next, err := s.settle(context.WithoutCancel(ctx)) // what has begun is finished
		if err != nil {
			s.logger.WarnContext(ctx, "payments could not be settled and are tried again", "error", err)
			next = restMax
		}
		select {
		case <-s.stored:
			// The payment commits after this moment, so look again and again, soon at first.
			rest = restMin
		case <-time.After(min(next, rest)):
			rest = min(2*rest, restMax)
		case <-ctx.Done():
		}
	}
	return nil
}

// announce tells Run that a payment which owes an answer is about to commit.
func (s *Service) announce() {
	select {
	case s.stored <- struct{}{}:
	default:
	}
}

// duePayment is a payment whose answer is due.
type duePayment struct {
	Order       uuid.UUID
	Token       string
	DeferredKey uuid.UUID
}

// settle sends what is due, and returns how long nothing else will be.
func (s *Service) settle(ctx context.Context) (next time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	settled := 0
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		// now() rather than clock_timestamp(), which no index can be asked for. A
		// row that another process has locked is its to settle.
		rows, err := tx.Query(ctx, `
			select order_id, token, deferred_key from payment
			where settle_at <= now()
			order by settle_at limit $1
			for update skip locked`, settleMax)
		if err != nil {
			return fmt.Errorf("find due payments: %w", err)
		}
		due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[duePayment])
		if err != nil {
			return fmt.Errorf("find due payments: %w", err)
		}
		for _, payment := range due {
			if err := settleOne(ctx, tx, payment); err != nil {
				return fmt.Errorf("settle payment of order %s: %w", payment.Order, err)
			}
		}
		settled = len(due)
		next = 0
		if settled == settleMax {
			return nil
		}
		err = tx.QueryRow(ctx, `
			select coalesce(min(settle_at) - now(), $1::interval) from payment where settle_at > now()`, restMax).Scan(&next)
		if err != nil {
			return fmt.Errorf("find the next due payment: %w", err)
		}
		return nil
	})
	if err == nil && settled > 0 {
		s.wakeRelay()
	}
	return next, err
}

func settleOne(ctx context.Context, tx pgx.Tx, payment duePayment) error {
	status, authorization := "authorized", authorizationID(payment.Order)
	declined := askToAuthorize(payment.Token).declined
	if declined != nil {
		status, authorization = "declined", nil
	}
	var reply shop.PaymentAuthorized
	if authorization != nil {
		reply.AuthorizationID = authorization.String()
	}
	err := consumer.Reply(ctx, tx, Name, shop.AuthorizePayment, payment.DeferredKey, reply, declined)
	if errors.Is(err, consumer.ErrNotDeferred) { // its compensation came meanwhile
		status, authorization = "voided", nil
	} else if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		update payment set status = $2, authorization_id = $3, settle_at = null, updated_at = clock_timestamp()
		where order_id = $1`, payment.Order, status, authorization)
	return err
}
