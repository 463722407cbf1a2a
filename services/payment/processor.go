package payment

import (
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
)

// Tokens of the simulated card processor. It declines any other token, because
// it knows no card behind it.
const (
	TokenOK           = "tok_ok"            // authorized at once
	TokenDeclined     = "tok_declined"      // declined with card_declined
	TokenCaptureFails = "tok_capture_fails" // authorized, but its capture is refused with capture_failed
	TokenRefundFails  = "tok_refund_fails"  // authorized and captured, but a refund is refused with refund_failed
	TokenSlow         = "tok_slow"          // authorized after three seconds
	TokenNever        = "tok_never"         // never answered
)

// decision is what the processor says to an authorization.
type decision struct {
	declined error         // a rejection, or nil
	after    time.Duration // how long it takes to say so
	never    bool          // it says nothing at all
}

// approvedAtOnce reports the decision that can be told without waiting.
func (d decision) approvedAtOnce() bool { return d.declined == nil && d.after == 0 && !d.never }

func askToAuthorize(token string) decision {
	switch token {
	case TokenOK, TokenCaptureFails, TokenRefundFails:
		return decision{}
	case TokenSlow:
		return decision{after: 3 * time.Second}
	case TokenNever:
		return decision{never: true}
	case TokenDeclined:
		return decision{declined: events.Reject(shop.CardDeclined, "the card was declined")}
	}
	return decision{declined: events.Reject(shop.CardDeclined, "unknown card")}
}

// askToCapture returns nil or a rejection.
func askToCapture(token string) error {
	if token == TokenCaptureFails {
		return events.Reject(shop.CaptureFailed, "the processor refused to capture the payment")
	}
	return nil
}

// askToRefund returns nil or a rejection.
func askToRefund(token string) error {
	if token == TokenRefundFails {
		return events.Reject(shop.RefundFailed, "the processor refused to refund the payment")
	}
	return nil
}
