package review

import (
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// Order is the state of a review. Its id is that of the saga.
type Order struct {
	ID       string      `json:"id"`
	Customer string      `json:"customer"`
	Currency string      `json:"currency"`
	Items    []shop.Item `json:"items"`
	Token    string      `json:"token"` // of the customer's card
	Flag     string      `json:"flag,omitempty"`
	Note     string      `json:"note,omitempty"`

	TriageReserved bool   `json:"triage_reserved,omitempty"`
	Triage         string `json:"triage,omitempty"` // what a model says of the note, or why none was asked

	Reserved bool                 `json:"reserved,omitempty"`
	Total    int64                `json:"total,omitempty"` // in minor units; known once stock is reserved
	Decision *shop.ReviewDecision `json:"decision,omitempty"`
}

func newOrder(id string, request shop.ReviewRequest) Order {
	return Order{
		ID: id, Customer: request.Customer, Currency: request.Currency,
		Items: request.Items, Token: request.Payment.Token, Flag: request.Flag, Note: request.Note,
	}
}

func (o Order) result() shop.ReviewResult {
	return shop.ReviewResult{OrderID: o.ID, Total: o.Total, Currency: o.Currency, Reviewed: o.Decision != nil, Triage: o.Triage}
}

// attributes are what an operator finds the order by; reviewer is who decided.
func (o Order) attributes() map[string]string {
	all := map[string]string{"order": o.ID, "customer": o.Customer}
	if o.Decision != nil {
		all["reviewer"] = o.Decision.By
	}
	return all
}

func (o Order) needsReview() bool {
	return o.Flag != "" || o.Total >= threshold || o.Triage != "" && o.Triage != harmless
}

func (o *Order) decided(decision shop.ReviewDecision) { o.Decision = &decision }

func (o Order) declined() bool { return o.Decision != nil && !o.Decision.Approved }

func (o Order) create() shop.CreateOrderRequest {
	return shop.CreateOrderRequest{OrderID: o.ID, Customer: o.Customer, Currency: o.Currency, Items: o.Items}
}

func (o Order) cancel(created saga.Sent[shop.CreateOrderRequest, shop.OrderCreated]) shop.CancelOrderRequest {
	reason := "not approved or not paid"
	switch {
	case created.InDoubt:
		reason = "order not created in time"
	case o.declined():
		reason = "not approved"
	case !o.Reserved:
		reason = "stock not reserved"
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

func (o Order) void(saga.Sent[shop.AuthorizePaymentRequest, shop.PaymentAuthorized]) shop.VoidPaymentRequest {
	return shop.VoidPaymentRequest{OrderID: o.ID}
}

func (o Order) fulfil() shop.FulfilmentRequest {
	return shop.FulfilmentRequest{OrderID: o.ID, Total: o.Total}
}
