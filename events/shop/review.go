package shop

import "github.com/countermand/countermand/events"

// RequestReview starts the review saga: an order that a person must approve when
// it is large or somebody has flagged it. Its reply type is what a completed one
// gives the client.
var RequestReview = events.NewCommand[ReviewRequest, ReviewResult]("shop.review.request.v1",
	UnknownSKU, OutOfStock, UnsupportedCurrency, CardDeclined, CaptureFailed, PaymentTimeout,
	ReviewDeclined, ReviewExpired)

// ReviewRequest is what a client posts to place an order that may need approval.
type ReviewRequest struct {
	Customer string  `json:"customer" jsonschema:"minLength=1,maxLength=100" jsonschema_description:"Who orders."`
	Currency string  `json:"currency" jsonschema:"pattern=^[A-Z]{3}$" jsonschema_description:"ISO 4217 code the customer pays in."`
	Items    []Item  `json:"items" jsonschema:"minItems=1,maxItems=100" jsonschema_description:"What is ordered; quantities of a sku that comes twice add up."`
	Payment  Payment `json:"payment" jsonschema_description:"How the customer pays."`
	Flag     string  `json:"flag,omitempty" jsonschema:"maxLength=200" jsonschema_description:"Why a person must look at the order, whatever it costs."`
	Note     string  `json:"note,omitempty" jsonschema:"maxLength=2000" jsonschema_description:"What the customer has to say. A model sorts it; a person must look at the order unless it is harmless."`
}

// ReviewResult is what a completed review gives the client.
type ReviewResult struct {
	OrderID  string `json:"order_id"`
	Total    int64  `json:"total" jsonschema_description:"In minor units of the currency."`
	Currency string `json:"currency"`
	// Reviewed says that a person has approved the order.
	Reviewed bool `json:"reviewed"`
	// Triage is what a model says of the note, or why none was asked.
	Triage string `json:"triage,omitempty" jsonschema_description:"What a model says of the note, or why none was asked."`
}

// Codes of orders that were not approved.
const (
	ReviewDeclined events.Code = "review_declined"
	// ReviewExpired is not sent by a participant: the saga ends with it when nobody
	// has decided in time.
	ReviewExpired events.Code = "review_expired"
)

// ReviewDecided is the signal that a review waits for.
var ReviewDecided = events.NewFact[ReviewDecision]("shop.review.decided.v1")

// ReviewDecision is what a person has decided about an order.
type ReviewDecision struct {
	Approved bool   `json:"approved"`
	By       string `json:"by" jsonschema:"minLength=1,maxLength=100" jsonschema_description:"Who decided."`
	Note     string `json:"note,omitempty" jsonschema:"maxLength=1000" jsonschema_description:"Why; customers do not see it."`
}

// RequestFulfilment starts the fulfilment saga, which takes the money of an order
// whose stock and payment are held and makes it final. It is for other sagas.
var RequestFulfilment = events.NewCommand[FulfilmentRequest, FulfilmentResult]("shop.fulfilment.request.v1", CaptureFailed)

// FulfilmentRequest names the order and what it costs.
type FulfilmentRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
	Total   int64  `json:"total"`
}

// FulfilmentResult says how much was taken.
type FulfilmentResult struct {
	CapturedAmount int64 `json:"captured_amount"`
}
