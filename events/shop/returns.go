package shop

import "github.com/countermand/countermand/events"

// RequestReturn starts the returns saga. Its reply type is what a completed return
// gives the client.
var RequestReturn = events.NewCommand[ReturnRequest, ReturnResult]("shop.return.request.v1",
	UnknownOrder, OrderNotConfirmed, ItemNotOrdered, AlreadyReturned, NotReturnable,
	PaymentNotCaptured, RefundTooHigh, RefundFailed)

// ReturnRequest is what a client posts to send goods of an order back.
type ReturnRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid" jsonschema_description:"The order that the goods were bought with."`
	Items   []Item `json:"items" jsonschema:"minItems=1,maxItems=100" jsonschema_description:"What comes back; quantities of a sku that comes twice add up."`
	Reason  string `json:"reason" jsonschema:"minLength=1,maxLength=500" jsonschema_description:"Why it comes back."`
}

// ReturnResult is what a completed return gives the client.
type ReturnResult struct {
	ReturnID    string `json:"return_id"`
	OrderID     string `json:"order_id"`
	Refund      int64  `json:"refund" jsonschema_description:"In minor units of the currency."`
	Currency    string `json:"currency"`
	OrderStatus string `json:"order_status" jsonschema:"enum=returned,enum=partially_returned"`
}

// Rejection codes of returns.
const (
	UnknownOrder      events.Code = "unknown_order"
	OrderNotConfirmed events.Code = "order_not_confirmed"
	// ItemNotOrdered also tells that fewer were ordered than are to come back.
	ItemNotOrdered     events.Code = "item_not_ordered"
	AlreadyReturned    events.Code = "already_returned"
	NotReturnable      events.Code = "not_returnable"
	PaymentNotCaptured events.Code = "payment_not_captured"
	RefundTooHigh      events.Code = "refund_too_high"
	RefundFailed       events.Code = "refund_failed"
)

// Commands of the order service about returns. An open return keeps others from
// returning the same goods.
var (
	OpenReturn = events.NewCommand[OpenReturnRequest, ReturnOpened]("shop.order.open-return.v1",
		UnknownOrder, OrderNotConfirmed, ItemNotOrdered, AlreadyReturned)
	CancelReturn   = events.NewCommand[CancelReturnRequest, events.None]("shop.order.cancel-return.v1")
	CompleteReturn = events.NewCommand[CompleteReturnRequest, ReturnCompleted]("shop.order.complete-return.v1")
)

// OpenReturnRequest asks to take note of a return, if the order allows for it.
type OpenReturnRequest struct {
	ReturnID string `json:"return_id" jsonschema:"format=uuid"`
	OrderID  string `json:"order_id" jsonschema:"format=uuid"`
	Items    []Item `json:"items"`
	Reason   string `json:"reason"`
}

// ReturnOpened says that the return may go on, and whose order it is about.
type ReturnOpened struct {
	Customer string `json:"customer"`
	Currency string `json:"currency"`
}

// CancelReturnRequest asks to drop an open return.
type CancelReturnRequest struct {
	ReturnID string `json:"return_id" jsonschema:"format=uuid"`
}

// CompleteReturnRequest asks to make an open return final, with what was paid
// back for it.
type CompleteReturnRequest struct {
	ReturnID string `json:"return_id" jsonschema:"format=uuid"`
	Refund   int64  `json:"refund"`
}

// ReturnCompleted says what the order is after the return.
type ReturnCompleted struct {
	OrderStatus string `json:"order_status" jsonschema:"enum=returned,enum=partially_returned"`
}

// OrderReturned is the fact that goods of an order came back and were paid back.
var OrderReturned = events.NewFact[OrderReturn]("shop.order.returned.v1")

// OrderReturn is the payload of [OrderReturned].
type OrderReturn struct {
	ReturnID    string `json:"return_id"`
	OrderID     string `json:"order_id"`
	Customer    string `json:"customer"`
	Currency    string `json:"currency"`
	Refund      int64  `json:"refund"`
	OrderStatus string `json:"order_status" jsonschema:"enum=returned,enum=partially_returned"`
}

// Commands of the inventory service about goods that come back. They are held
// apart until the return is certain: what is on the shelf may be sold, and could
// not be taken off it again.
var (
	RestockItem = events.NewCommand[RestockItemRequest, ItemRestocked]("shop.inventory.restock.v1",
		ItemNotOrdered, AlreadyReturned, NotReturnable)
	WithdrawItem = events.NewCommand[WithdrawItemRequest, events.None]("shop.inventory.withdraw.v1")
	ShelveStock  = events.NewCommand[ShelveStockRequest, events.None]("shop.inventory.shelve.v1")
)

// RestockItemRequest asks to take one line of an order back, and what it cost.
type RestockItemRequest struct {
	ReturnID string `json:"return_id" jsonschema:"format=uuid"`
	OrderID  string `json:"order_id" jsonschema:"format=uuid"`
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// ItemRestocked says that the line is held apart and what the customer paid for it.
type ItemRestocked struct {
	Refund   int64  `json:"refund"`
	Currency string `json:"currency"`
}

// WithdrawItemRequest asks to give a line that is held apart up again.
type WithdrawItemRequest struct {
	ReturnID string `json:"return_id" jsonschema:"format=uuid"`
	SKU      string `json:"sku"`
}

// ShelveStockRequest asks to put all that a return holds apart on the shelf.
type ShelveStockRequest struct {
	ReturnID string `json:"return_id" jsonschema:"format=uuid"`
}

// RefundPayment pays back a part of a captured payment, or all of it. A refund of
// one id is paid once.
var RefundPayment = events.NewCommand[RefundPaymentRequest, PaymentRefunded]("shop.payment.refund.v1",
	PaymentNotCaptured, RefundTooHigh, RefundFailed)

// RefundPaymentRequest asks to pay money back.
type RefundPaymentRequest struct {
	RefundID string `json:"refund_id" jsonschema:"format=uuid"`
	OrderID  string `json:"order_id" jsonschema:"format=uuid"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// PaymentRefunded says how much of the payment has been paid back by all refunds.
type PaymentRefunded struct {
	Refunded int64 `json:"refunded"`
}
