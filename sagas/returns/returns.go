package returns

import (
	"time"

	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// itemsAtOnce is how many lines of a return are taken back at the same time.
const itemsAtOnce = 4

// Saga takes a return from the request to the refund. The refund decides: up to it
// everything can be given up again, and afterwards the goods go on the shelf while
// the order is marked.
var Saga = saga.Definition[Return]{
	Name: "returns", Version: 1,
	Start: saga.On(shop.RequestReturn, newReturn, Return.result),
	Attributes: func(r Return) map[string]string {
		return map[string]string{"order": r.OrderID, "customer": r.Customer}
	},
	Flow: saga.Sequence[Return]{
		saga.Step[Return]{
			Name:    "open-return",
			Do:      saga.Call(shop.OpenReturn, Return.open, (*Return).opened),
			Undo:    saga.Undo(shop.OpenReturn, shop.CancelReturn, Return.cancel),
			Timeout: 20 * time.Second,
		},
		saga.ForEach[Return, shop.Item]{
			Name:  "each-item",
			Items: func(r Return) []shop.Item { return r.Items },
			Limit: itemsAtOnce,
			Body: saga.Step[line]{
				Name:    "restock-item",
				Do:      saga.Call(shop.RestockItem, restock, restocked),
				Undo:    saga.Undo(shop.RestockItem, shop.WithdrawItem, withdraw),
				Timeout: 20 * time.Second,
			},
		},
		saga.Step[Return]{
			Name:    "refund-payment",
			Do:      saga.Call(shop.RefundPayment, Return.refund, nil),
			Pivot:   true,
			Timeout: 30 * time.Second,
		},
		saga.Parallel[Return]{Branches: []saga.Node[Return]{
			saga.Step[Return]{
				Name:    "shelve-stock",
				Do:      saga.Call(shop.ShelveStock, Return.shelve, nil),
				Timeout: 30 * time.Second,
			},
			saga.Step[Return]{
				Name:    "complete-return",
				Do:      saga.Call(shop.CompleteReturn, Return.complete, (*Return).completed),
				Timeout: 30 * time.Second,
			},
		}},
	},
}
