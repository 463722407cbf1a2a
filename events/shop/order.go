package shop

import "github.com/countermand/countermand/events"

// Commands of the order service.
var (
	CreateOrder  = events.NewCommand[CreateOrderRequest, OrderCreated]("shop.order.create.v1")
	ConfirmOrder = events.NewCommand[ConfirmOrderRequest, events.None]("shop.order.confirm.v1")
	CancelOrder  = events.NewCommand[CancelOrderRequest, events.None]("shop.order.cancel.v1")
)

// CreateOrderRequest asks for a pending order.
type CreateOrderRequest struct {
	OrderID  string `json:"order_id" jsonschema:"format=uuid"`
	Customer string `json:"customer"`
	Currency string `json:"currency"`
	Items    []Item `json:"items"`
}

// OrderCreated says the order is pending.
type OrderCreated struct {
	OrderID string `json:"order_id"`
}

// ConfirmOrderRequest asks to make a pending order final, with what it cost.
type ConfirmOrderRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
	Total   int64  `json:"total"`
}

// CancelOrderRequest asks to cancel a pending order and tells why.
type CancelOrderRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
	Reason  string `json:"reason"`
}

// Facts of the order service.
var (
	OrderPlaced    = events.NewFact[OrderChanged]("shop.order.placed.v1")
	OrderConfirmed = events.NewFact[OrderChanged]("shop.order.confirmed.v1")
	OrderCancelled = events.NewFact[OrderChanged]("shop.order.cancelled.v1")
)

// OrderChanged is the payload of every order fact: the order as it now is.
type OrderChanged struct {
	OrderID  string `json:"order_id"`
	Customer string `json:"customer"`
	Currency string `json:"currency"`
	Status   string `json:"status" jsonschema:"enum=pending,enum=confirmed,enum=cancelled"`
	Total    int64  `json:"total"`
}
