package review

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// Within is how long the shop gives a person to decide, unless it says otherwise.
const Within = 24 * time.Hour

// threshold is what an order costs, in minor units, from which on a person must
// approve it.
const threshold = 1_000_00

// rest is what the nodes beside the decision may take.
const rest = 24 * time.Minute

// New returns the saga that gives a person that much time to decide. Versions of it
// that differ in that alone are the same saga.
//
// The payment is authorized while the order waits: a card that is declined ends the
// wait, and an order that is approved can be fulfilled at once.
func New(within time.Duration) saga.Definition[Order] {
	return saga.Definition[Order]{
		Name: "review", Version: 2,
		Start:      saga.On(shop.RequestReview, newOrder, Order.result),
		Deadline:   within + rest,
		Attributes: Order.attributes,
		// Orders of the first version have no notes.
		Takes: []saga.Takeover[Order]{saga.From(1, func(old Order) Order { return old }, nil)},
		Flow: saga.Sequence[Order]{
			triageBudget(),
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
			triage(),
			saga.Parallel[Order]{Branches: []saga.Node[Order]{
				saga.Step[Order]{
					Name:        "authorize-payment",
					Do:          saga.Call(shop.AuthorizePayment, Order.authorize, nil),
					Undo:        saga.Undo(shop.AuthorizePayment, shop.VoidPayment, Order.void),
					Timeout:     15 * time.Second,
					TimeoutCode: shop.PaymentTimeout,
					Retry:       saga.Retry{Min: 4 * time.Second, Max: 4 * time.Second},
				},
				saga.Choice[Order]{
					Name: "needs-review",
					Cases: []saga.Case[Order]{{When: Order.needsReview, Then: saga.Await[Order]{
						Name:        "decision",
						For:         saga.Signal(shop.ReviewDecided, (*Order).decided),
						Timeout:     within,
						TimeoutCode: shop.ReviewExpired,
					}}},
				},
			}},
			saga.Choice[Order]{
				Name:  "verdict",
				Cases: []saga.Case[Order]{{When: Order.declined, Then: saga.Local[Order]{Name: "decline", Do: decline, NoUndo: "it only says no"}}},
			},
			saga.Child[Order]{
				Name:  "fulfil",
				Start: saga.Call(shop.RequestFulfilment, Order.fulfil, nil),
				Pivot: true,
			},
		},
	}
}

// decline ends the order. What the reviewer noted is not for the customer, who is
// told the message.
func decline(context.Context, pgx.Tx, *Order) error {
	return events.Reject(shop.ReviewDeclined, "the order was not approved")
}
