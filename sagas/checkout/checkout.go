package checkout

import (
	"time"

	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// Saga takes a checkout from the request to a confirmed order. Up to
// capture-payment everything can be undone and is, in reverse order, when a step
// is rejected or gives no answer in time; from there on it only goes forward.
var Saga = saga.Definition[Order]{
	Name: "checkout", Version: 1,
	Start: saga.On(shop.RequestCheckout, newOrder, Order.result),
	Flow: saga.Sequence[Order]{
		saga.Step[Order]{
			Name:    "create-order",
			Do:      saga.Call(shop.CreateOrder, Order.create, nil),
			Undo:    saga.Undo(shop.CreateOrder, shop.CancelOrder, Order.cancel),
			Timeout: 20 * time.Second,
		},
		saga.Step[Order]{
			Name:    "reserve-stock",
			Do:      saga.Call(shop.ReserveStock, Order.reserve, (*Order).reserved),
			Undo:    saga.Undo(shop.ReserveStock, shop.ReleaseStock, Order.release),
			Timeout: 20 * time.Second,
		},
		saga.Step[Order]{
			Name:        "authorize-payment",
			Do:          saga.Call(shop.AuthorizePayment, Order.authorize, (*Order).authorized),
			Undo:        saga.Undo(shop.AuthorizePayment, shop.VoidPayment, Order.void),
			Timeout:     15 * time.Second,
			TimeoutCode: shop.PaymentTimeout,
			Retry:       saga.Retry{Min: 4 * time.Second, Max: 4 * time.Second},
		},
		saga.Step[Order]{
			Name:    "capture-payment",
			Do:      saga.Call(shop.CapturePayment, Order.capture, nil),
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
