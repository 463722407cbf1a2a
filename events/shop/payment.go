package shop

import "github.com/countermand/countermand/events"

// Commands of the payment service.
var (
	AuthorizePayment = events.NewCommand[AuthorizePaymentRequest, PaymentAuthorized]("shop.payment.authorize.v1", CardDeclined)
	VoidPayment      = events.NewCommand[VoidPaymentRequest, events.None]("shop.payment.void.v1")
	CapturePayment   = events.NewCommand[CapturePaymentRequest, PaymentCaptured]("shop.payment.capture.v1", CaptureFailed)
)

// AuthorizePaymentRequest asks to hold money on the customer's card.
type AuthorizePaymentRequest struct {
	OrderID  string `json:"order_id" jsonschema:"format=uuid"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Token    string `json:"token"`
}

// PaymentAuthorized says the money is held.
type PaymentAuthorized struct {
	AuthorizationID string `json:"authorization_id"`
}

// VoidPaymentRequest asks to let held money go.
type VoidPaymentRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
}

// CapturePaymentRequest asks to take held money.
type CapturePaymentRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
}

// PaymentCaptured says the money was taken.
type PaymentCaptured struct {
	CapturedAmount int64 `json:"captured_amount"`
}
