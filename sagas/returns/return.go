package returns

import (
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
)

// Return is the state of a return. Its id is that of the saga, and of the refund.
type Return struct {
	ID      string      `json:"id"`
	OrderID string      `json:"order_id"`
	Items   []shop.Item `json:"items"` // each sku once
	Reason  string      `json:"reason"`

	Customer    string `json:"customer,omitempty"`
	Currency    string `json:"currency,omitempty"`
	Refund      int64  `json:"refund,omitempty"` // in minor units: the sum of the lines that were taken back
	OrderStatus string `json:"order_status,omitempty"`
}

// line is what the body of the for-each works on.
type line = saga.Each[Return, shop.Item]

func newReturn(id string, request shop.ReturnRequest) Return {
	r := Return{ID: id, OrderID: request.OrderID, Reason: request.Reason}
	at := make(map[string]int)
	for _, item := range request.Items {
		if i, again := at[item.SKU]; again {
			r.Items[i].Quantity += item.Quantity
			continue
		}
		at[item.SKU] = len(r.Items)
		r.Items = append(r.Items, item)
	}
	return r
}

func (r Return) result() shop.ReturnResult {
	return shop.ReturnResult{ReturnID: r.ID, OrderID: r.OrderID, Refund: r.Refund, Currency: r.Currency, OrderStatus: r.OrderStatus}
}

func (r Return) open() shop.OpenReturnRequest {
	return shop.OpenReturnRequest{ReturnID: r.ID, OrderID: r.OrderID, Items: r.Items, Reason: r.Reason}
}

func (r *Return) opened(reply shop.ReturnOpened) {
	r.Customer, r.Currency = reply.Customer, reply.Currency
}

func (r Return) cancel(saga.Sent[shop.OpenReturnRequest, shop.ReturnOpened]) shop.CancelReturnRequest {
	return shop.CancelReturnRequest{ReturnID: r.ID}
}

func restock(l line) shop.RestockItemRequest {
	return shop.RestockItemRequest{ReturnID: l.State.ID, OrderID: l.State.OrderID, SKU: l.Item.SKU, Quantity: l.Item.Quantity}
}

// restocked adds up, so the lines may come back in any order.
func restocked(l *line, reply shop.ItemRestocked) { l.State.Refund += reply.Refund }

func withdraw(_ line, sent saga.Sent[shop.RestockItemRequest, shop.ItemRestocked]) shop.WithdrawItemRequest {
	return shop.WithdrawItemRequest{ReturnID: sent.Request.ReturnID, SKU: sent.Request.SKU}
}

func (r Return) refund() shop.RefundPaymentRequest {
	return shop.RefundPaymentRequest{RefundID: r.ID, OrderID: r.OrderID, Amount: r.Refund, Currency: r.Currency}
}

func (r Return) shelve() shop.ShelveStockRequest { return shop.ShelveStockRequest{ReturnID: r.ID} }

func (r Return) complete() shop.CompleteReturnRequest {
	return shop.CompleteReturnRequest{ReturnID: r.ID, Refund: r.Refund}
}

func (r *Return) completed(reply shop.ReturnCompleted) { r.OrderStatus = reply.OrderStatus }
