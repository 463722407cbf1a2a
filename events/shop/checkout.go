package shop

import "github.com/countermand/countermand/events"

// RequestCheckout starts the checkout saga. Its reply type is what a completed
// checkout gives the client.
var RequestCheckout = events.NewCommand[CheckoutRequest, CheckoutResult]("shop.checkout.request.v1",
	UnknownSKU, OutOfStock, UnsupportedCurrency, CardDeclined, CaptureFailed, PaymentTimeout)

// CheckoutRequest is what a client posts to place an order.
type CheckoutRequest struct {
	Customer string  `json:"customer" jsonschema:"minLength=1,maxLength=100" jsonschema_description:"Who orders."`
	Currency string  `json:"currency" jsonschema:"pattern=^[A-Z]{3}$" jsonschema_description:"ISO 4217 code the customer pays in."`
	Items    []Item  `json:"items" jsonschema:"minItems=1,maxItems=100" jsonschema_description:"What is ordered; a sku may come once."`
	Payment  Payment `json:"payment" jsonschema_description:"How the customer pays."`
}

// Item is one line of an order.
type Item struct {
	SKU      string `json:"sku" jsonschema:"minLength=1,maxLength=64,pattern=^[A-Za-z0-9._-]+$" jsonschema_description:"Stock keeping unit."`
	Quantity int64  `json:"quantity" jsonschema:"minimum=1,maximum=10000" jsonschema_description:"How many."`
}

// Payment names the means of payment by a token of the card processor.
type Payment struct {
	Token string `json:"token" jsonschema:"minLength=1,maxLength=100,pattern=^[A-Za-z0-9_-]+$" jsonschema_description:"Token of the card."`
}

// CheckoutResult is what a completed checkout gives the client.
type CheckoutResult struct {
	OrderID  string `json:"order_id"`
	Total    int64  `json:"total" jsonschema_description:"In minor units of the currency."`
	Currency string `json:"currency"`
}

// Rejection codes of the shop.
const (
	UnknownSKU          events.Code = "unknown_sku"
	OutOfStock          events.Code = "out_of_stock"
	UnsupportedCurrency events.Code = "unsupported_currency"
	CardDeclined        events.Code = "card_declined"
	CaptureFailed       events.Code = "capture_failed"
	// PaymentTimeout is not sent by a participant: the saga ends with it when the
	// payment service gives no answer in time.
	PaymentTimeout events.Code = "payment_timeout"
)
