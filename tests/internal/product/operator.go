package product

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"
)

// Operator speaks to the admin listener.
type Operator struct{ *Client }

// NewOperator returns a client of the admin listener at base.
func NewOperator(base string) Operator { return Operator{NewClient(base)} }

// Saga is a saga of the shop as the admin API shows it.
type Saga struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Version  int        `json:"version"`
	Status   string     `json:"status"`
	State    SagaState  `json:"state"`
	Steps    []SagaStep `json:"steps"`
	Failure  *Failure   `json:"failure"`
	Revision int64      `json:"revision"` // in the answer for one saga only
}

// SagaState is the state of a saga of the shop, as far as tests look at it.
type SagaState struct {
	OrderID  string `json:"order_id"` // of a return
	Customer string `json:"customer"`
	Items    []Item `json:"items"`
	Token    string `json:"token"`
	Total    int64  `json:"total"`
	Refund   int64  `json:"refund"` // of a return
}

// SagaStep is one step of a saga.
type SagaStep struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Do     Call   `json:"do"`
	Undo   Call   `json:"undo"`
}

// Call is one command of a step and its reply.
type Call struct {
	Request  json.RawMessage `json:"request"`
	Reply    json.RawMessage `json:"reply"`
	Attempts int             `json:"attempts"`
	SentAt   time.Time       `json:"sent_at"`
}

// Failure tells why a saga compensates.
type Failure struct {
	Step string `json:"step"`
	Code string `json:"code"`
}

// Sagas lists all sagas, newest first, in pages of that size. A list shows neither
// state nor steps.
func (o Operator) Sagas(ctx context.Context, pageSize int) ([]Saga, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	var all []Saga
	for {
		page, err := get[struct {
			Sagas []Saga `json:"sagas"`
			Next  string `json:"next"`
		}](ctx, o.Client, "/admin/v1/sagas?"+query.Encode())
		if err != nil {
			return nil, err
		}
		all = append(all, page.Sagas...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("cursor", page.Next)
	}
}

// Saga reads one saga.
func (o Operator) Saga(ctx context.Context, id string) (Saga, error) {
	return get[Saga](ctx, o.Client, "/admin/v1/sagas/"+escape(id))
}

// Counts returns how many sagas have each status.
func (o Operator) Counts(ctx context.Context) (Counts, error) {
	return get[Counts](ctx, o.Client, "/admin/v1/sagas:counts")
}

// Counts are sagas by status.
type Counts map[string]int

// All returns how many sagas there are.
func (c Counts) All() int {
	all := 0
	for _, n := range c {
		all += n
	}
	return all
}

// Ended returns how many sagas have ended for good.
func (c Counts) Ended() int { return c["completed"] + c["compensated"] + c["abandoned"] }
