package product

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Shop is the sample shop behind the public listener.
type Shop struct{ *Client }

// NewShop returns a client of the shop at base.
func NewShop(base string) Shop { return Shop{NewClient(base)} }

// Checkout is what a customer posts to place an order.
type Checkout struct {
	Customer string  `json:"customer"`
	Currency string  `json:"currency"`
	Items    []Item  `json:"items"`
	Payment  Payment `json:"payment"`
}

// Item is one line of an order.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Payment names the means of payment.
type Payment struct {
	Token string `json:"token"`
}

// NewCheckout returns the order of one sku, paid in euros.
func NewCheckout(customer, sku string, quantity int64, token string) Checkout {
	return Checkout{Customer: customer, Currency: "EUR", Items: []Item{{sku, quantity}}, Payment: Payment{token}}
}

// Body returns the order as JSON.
func (c Checkout) Body() string {
	body, err := json.Marshal(c)
	if err != nil {
		panic(err) // it holds nothing that could fail
	}
	return string(body)
}

// Accepted is the body of a 202.
type Accepted struct {
	ID     string            `json:"id"`
	Status string            `json:"status"`
	Links  map[string]string `json:"links"`
}

// Operation is what became of a request, with all the members it may have.
type Operation struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Done   bool   `json:"done"`
	Saga   *struct {
		Name    string `json:"name"`
		Version int    `json:"version"`
	} `json:"saga"`
	Steps []struct {
		Name     string `json:"name"`
		Status   string `json:"status"`
		Attempts int    `json:"attempts"`
	} `json:"steps"`
	Result *struct {
		OrderID  string `json:"order_id"`
		Total    int64  `json:"total"`
		Currency string `json:"currency"`
		// Of a review.
		Reviewed bool   `json:"reviewed"`
		Triage   string `json:"triage"`
		// Of a return.
		ReturnID    string `json:"return_id"`
		Refund      int64  `json:"refund"`
		OrderStatus string `json:"order_status"`
	} `json:"result"`
	Error     *Problem  `json:"error"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Problem is a problem document (RFC 9457), with all the members it may have.
type Problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance"`
	Code      string `json:"code"`
	Retriable bool   `json:"retriable"`
	TraceID   string `json:"trace_id"`
	Errors    []struct {
		Pointer string `json:"pointer"`
		Detail  string `json:"detail"`
	} `json:"errors"`
}

// Order is an order as the order service shows it.
type Order struct {
	ID       string `json:"id"`
	Status   string `json:"status"`
	Customer string `json:"customer"`
	Currency string `json:"currency"`
	Total    int64  `json:"total"`
}

// Customer is what the read model knows of a customer's orders. It lags behind.
type Customer struct {
	Pending   int64            `json:"pending"`
	Confirmed int64            `json:"confirmed"`
	Cancelled int64            `json:"cancelled"`
	Spent     map[string]int64 `json:"spent"`
}

// Stock is the shelf of one sku.
type Stock struct {
	SKU       string `json:"sku"`
	OnHand    int64  `json:"on_hand"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
}

// Charge is the payment of an order.
type Charge struct {
	Status   string `json:"status"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Refunded int64  `json:"refunded"`
}

// Return is a return as the order service shows it.
type Return struct {
	ID      string `json:"id"`
	OrderID string `json:"order_id"`
	Status  string `json:"status"`
	Refund  int64  `json:"refund"`
}

// Place posts an order.
func (s Shop) Place(ctx context.Context, body string, headers ...string) (Answer, error) {
	return s.Do(ctx, http.MethodPost, "/v1/orders", body, append([]string{"Content-Type: application/json"}, headers...)...)
}

// Operation reads an operation.
func (s Shop) Operation(ctx context.Context, id string) (Operation, error) {
	return get[Operation](ctx, s.Client, "/v1/operations/"+escape(id))
}

// Finished waits until the operation has ended, at most for the timeout.
func (s Shop) Finished(ctx context.Context, id string, timeout time.Duration) (Operation, error) {
	for end := time.Now().Add(timeout); ; {
		op, err := get[Operation](ctx, s.Client, "/v1/operations/"+escape(id), "Prefer: wait=5")
		if err != nil || op.Done {
			return op, err
		}
		if time.Now().After(end) {
			return op, fmt.Errorf("operation %s is still %s after %s", id, op.Status, timeout)
		}
	}
}

// Order reads an order; false when there is none.
func (s Shop) Order(ctx context.Context, id string) (Order, bool, error) {
	return getIfAny[Order](ctx, s.Client, "/v1/orders/"+escape(id))
}

// Customer reads the summary of a customer; false when there is none.
func (s Shop) Customer(ctx context.Context, name string) (Customer, bool, error) {
	return getIfAny[Customer](ctx, s.Client, "/v1/customers/"+escape(name))
}

// Charge reads the payment of an order; false when there is none.
func (s Shop) Charge(ctx context.Context, orderID string) (Charge, bool, error) {
	return getIfAny[Charge](ctx, s.Client, "/v1/payments/"+escape(orderID))
}

// Return reads a return; false when there is none.
func (s Shop) Return(ctx context.Context, id string) (Return, bool, error) {
	return getIfAny[Return](ctx, s.Client, "/v1/returns/"+escape(id))
}

// Stock reads the shelf of a sku.
func (s Shop) Stock(ctx context.Context, sku string) (Stock, error) {
	return get[Stock](ctx, s.Client, "/v1/inventory/"+escape(sku))
}
