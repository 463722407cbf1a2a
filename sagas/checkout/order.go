package checkout

import (
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// Order is the state of a checkout: what was asked for, and what later steps
// need of earlier replies.
type Order struct {
	ID       string      `json:"id"` // of the saga: order, reservation and payment carry it too
	Customer string      `json:"customer"`
	Currency string      `json:"currency"`
	Items    []shop.Item `json:"items"`
	Token    string      `json:"token"` // of the customer's card

	Reserved   bool  `json:"reserved,omitempty"`
	Total      int64 `json:"total,omitempty"` // in minor units; known once stock is reserved
	Authorized bool  `json:"authorized,omitempty"`
}

func newOrder(id string, request shop.CheckoutRequest) Order {
	return Order{
		ID: id, Customer: request.Customer, Currency: request.Currency,
		Items: request.Items, Token: request.Payment.Token,
	}
}

func (o Order) result() shop.CheckoutResult {
	return shop.CheckoutResult{OrderID: o.ID, Total: o.Total, Currency: o.Currency}
}

func (o Order) create() shop.CreateOrderRequest {
	return shop.CreateOrderRequest{OrderID: o.ID, Customer: o.Customer, Currency: o.Currency, Items: o.Items}
}

func (o Order) cancel(created saga.Sent[shop.CreateOrderRequest, shop.OrderCreated]) shop.CancelOrderRequest {
	reason := "stock not reserved"
	switch {
	case created.InDoubt:
		reason = "order not created in time"
	case o.Authorized:
		reason = "payment not captured"
	case o.Reserved:
		reason = "payment not authorized"
	}
	return shop.CancelOrderRequest{OrderID: o.ID, Reason: reason}
}

func (o Order) reserve() shop.ReserveStockRequest {
	return shop.ReserveStockRequest{OrderID: o.ID, Currency: o.Currency, Items: o.Items}
}

func (o *Order) reserved(reply shop.StockReserved) { o.Reserved, o.Total = true, reply.Total }

func (o Order) release(saga.Sent[shop.ReserveStockRequest, shop.StockReserved]) shop.ReleaseStockRequest {
	return shop.ReleaseStockRequest{OrderID: o.ID}
}

func (o Order) authorize() shop.AuthorizePaymentRequest {
	return shop.AuthorizePaymentRequest{OrderID: o.ID, Amount: o.Total, Currency: o.Currency, Token: o.Token}
}

func (o *Order) authorized(shop.PaymentAuthorized) { o.Authorized = true }

func (o Order) void(saga.Sent[shop.AuthorizePaymentRequest, shop.PaymentAuthorized]) shop.VoidPaymentRequest {
	return shop.VoidPaymentRequest{OrderID: o.ID}
}

func (o Order) capture() shop.CapturePaymentRequest {
	return shop.CapturePaymentRequest{OrderID: o.ID}
}

func (o Order) commit() shop.CommitStockRequest {
	return shop.CommitStockRequest{OrderID: o.ID}
}

func (o Order) confirm() shop.ConfirmOrderRequest {
	return shop.ConfirmOrderRequest{OrderID: o.ID, Total: o.Total}
}
