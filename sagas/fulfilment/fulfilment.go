package fulfilment

import (
	"time"

	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// Saga makes an order final. Taking the money decides; nothing comes before it, so
// there is nothing that this saga itself could undo.
var Saga = saga.Definition[Order]{
	Name: "fulfilment", Version: 1,
	Start:      saga.On(shop.RequestFulfilment, newOrder, Order.result),
	Attributes: func(o Order) map[string]string { return map[string]string{"order": o.ID} },
	Flow: saga.Sequence[Order]{
		saga.Step[Order]{
			Name:    "capture-payment",
			Do:      saga.Call(shop.CapturePayment, Order.capture, (*Order).captured),
			Pivot:   true,
			Timeout: 30 * time.Second,
		},
		saga.Step[Order]{
			Name:    "commit-stock",
			Do:      saga.Call(shop.CommitStock, Order.commit, nil),
			Timeout: 30 * time.Second,
		},
		saga.Step[Order]{
			Name:    "confirm-order",
			Do:      saga.Call(shop.ConfirmOrder, Order.confirm, nil),
			Timeout: 30 * time.Second,
		},
	},
}

// Order is the state of a fulfilment. Its id is that of the order, not of the saga.
type Order struct {
	ID       string `json:"order_id"`
	Total    int64  `json:"total"` // in minor units
	Captured int64  `json:"captured,omitempty"`
}

func newOrder(_ string, request shop.FulfilmentRequest) Order {
	return Order{ID: request.OrderID, Total: request.Total}
}

func (o Order) result() shop.FulfilmentResult {
	return shop.FulfilmentResult{CapturedAmount: o.Captured}
}

func (o Order) capture() shop.CapturePaymentRequest {
	return shop.CapturePaymentRequest{OrderID: o.ID}
}

func (o *Order) captured(reply shop.PaymentCaptured) { o.Captured = reply.CapturedAmount }

func (o Order) commit() shop.CommitStockRequest { return shop.CommitStockRequest{OrderID: o.ID} }

func (o Order) confirm() shop.ConfirmOrderRequest {
	return shop.ConfirmOrderRequest{OrderID: o.ID, Total: o.Total}
}
