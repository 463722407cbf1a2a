package payment_test

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/services/payment"
)

// paid authorizes and captures 21.00 with that token, and returns the order.
func (r *rig) paid(token string) (order string) {
	r.T.Helper()
	order = events.NewID()
	consumertest.Do[shop.PaymentAuthorized](r.Rig, authorize(r, order, token))
	if _, code := consumertest.Do[shop.PaymentCaptured](r.Rig, capture(r, order)); code != "" {
		r.T.Fatalf("code %q", code)
	}
	return order
}

func refund(r *rig, id, order string, amount int64) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.RefundPayment, id, shop.RefundPaymentRequest{RefundID: id, OrderID: order, Amount: amount, Currency: "EUR"})
}

func (r *rig) refunded(order string) int64 {
	r.T.Helper()
	return consumertest.Read[int64](r.Rig, "select refunded from payment where order_id = $1", order)
}

func TestRefundInParts(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.paid(payment.TokenOK)
	first, second := events.NewID(), events.NewID()
	e := refund(r, first, order, 1500)
	for _, e := range []events.Event{e, e, refund(r, first, order, 1500)} { // a redelivery, and another command for the same refund
		if reply, code := consumertest.Do[shop.PaymentRefunded](r.Rig, e); code != "" || reply.Refunded != 1500 {
			t.Errorf("code %q, %+v", code, reply)
		}
	}
	if _, code := consumertest.Do[shop.PaymentRefunded](r.Rig, refund(r, events.NewID(), order, 601)); code != shop.RefundTooHigh {
		t.Errorf("code %q", code)
	}
	if reply, code := consumertest.Do[shop.PaymentRefunded](r.Rig, refund(r, second, order, 600)); code != "" || reply.Refunded != 2100 {
		t.Errorf("code %q, %+v", code, reply)
	}
	if _, code := consumertest.Do[shop.PaymentRefunded](r.Rig, refund(r, events.NewID(), order, 1)); code != shop.RefundTooHigh {
		t.Errorf("code %q", code)
	}
	status, _, body := r.get("/v1/payments/" + order)
	if status != http.StatusOK || !strings.Contains(body, `"status":"captured"`) || !strings.Contains(body, `"refunded":2100`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestRefundOfWhatWasNotTaken(t *testing.T) {
	t.Parallel()
	r := setup(t)
	authorized, voided := events.NewID(), events.NewID()
	consumertest.Do[shop.PaymentAuthorized](r.Rig, authorize(r, authorized, payment.TokenOK))
	before := authorize(r, voided, payment.TokenOK)
	consumertest.Do[shop.PaymentAuthorized](r.Rig, before)
	consumertest.Do[events.None](r.Rig, void(r, voided, before))
	for _, order := range []string{authorized, voided, events.NewID()} {
		if _, code := consumertest.Do[shop.PaymentRefunded](r.Rig, refund(r, events.NewID(), order, 100)); code != shop.PaymentNotCaptured {
			t.Errorf("code %q", code)
		}
	}
	r.expect(authorized, "authorized")
}

func TestRefundThatTheProcessorRefuses(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := r.paid(payment.TokenRefundFails)
	e := refund(r, events.NewID(), order, 100)
	for range 2 {
		if _, code := consumertest.Do[shop.PaymentRefunded](r.Rig, e); code != shop.RefundFailed {
			t.Errorf("code %q", code)
		}
	}
	r.expect(order, "captured") // the rejection left no write
	if n := consumertest.Read[int](r.Rig, "select count(*) from refund"); n != 0 {
		t.Errorf("%d refunds", n)
	}
}

func TestRefundsThatCanNeverWorkAreSetAside(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order, other := r.paid(payment.TokenOK), r.paid(payment.TokenOK)
	id := events.NewID()
	consumertest.Do[shop.PaymentRefunded](r.Rig, refund(r, id, order, 100))
	dollars := events.NewID()
	for _, e := range []events.Event{
		refund(r, id, order, 200), // by that id 100 were paid back
		refund(r, id, other, 100), // and of another payment
		refund(r, events.NewID(), order, -1),
		refund(r, "no uuid", order, 1),
		refund(r, events.NewID(), "no uuid", 1),
		consumertest.Command(t, shop.RefundPayment, dollars, shop.RefundPaymentRequest{RefundID: dollars, OrderID: order, Amount: 1, Currency: "USD"}),
	} {
		r.Send(e)
	}
	r.Await(6, "select count(*) from dead_letter")
	if attempts := consumertest.Read[int](r.Rig, "select max(attempts) from dead_letter"); attempts != 1 {
		t.Errorf("one was tried %d times", attempts)
	}
	if got := r.refunded(order); got != 100 {
		t.Errorf("%d were paid back", got)
	}
}

// Whatever is asked for at the same time, each in a transaction of its own, no more
// is paid back than was taken, and what was paid back is the sum of the refunds.
func TestRefundsNeverExceedThePayment(t *testing.T) {
	t.Parallel()
	r := setup(t)
	for seed := range uint64(4) {
		order := r.paid(payment.TokenOK)
		var wait sync.WaitGroup
		var mu sync.Mutex
		granted := int64(0)
		for worker := range uint64(8) {
			wait.Go(func() {
				random := rand.New(rand.NewPCG(seed, worker))
				for range 5 {
					amount := random.Int64N(400)
					id := events.NewID()
					for range 1 + random.IntN(2) { // some ask twice
						var refused *events.Rejection
						err := postgres.InTx(t.Context(), r.Pool, func(tx pgx.Tx) error {
							_, err := payment.Refund(r.Service, t.Context(), tx, shop.RefundPaymentRequest{RefundID: id, OrderID: order, Amount: amount, Currency: "EUR"})
							return err
						})
						switch {
						case err == nil:
						case errors.As(err, &refused) && refused.Code == shop.RefundTooHigh:
							amount = -1
						default:
							t.Error(err)
						}
						if amount < 0 {
							break
						}
					}
					if amount > 0 {
						mu.Lock()
						granted += amount
						mu.Unlock()
					}
				}
			})
		}
		wait.Wait()
		refunded := r.refunded(order)
		if refunded != granted || refunded > 2100 {
			t.Errorf("seed %d: %d were granted and %d paid back of 2100", seed, granted, refunded)
		}
		if kept := consumertest.Read[int64](r.Rig, "select sum(amount)::bigint from refund where order_id = $1", order); kept != refunded {
			t.Errorf("seed %d: the refunds add up to %d, the payment says %d", seed, kept, refunded)
		}
	}
}
