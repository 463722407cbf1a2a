package saga

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/time/rate"
)

// Bulk is one order to all sagas that a filter selects.
type Bulk struct {
	Order Order
	// Filter selects the sagas; its Cursor and Limit are not looked at.
	Filter Filter
	// Expected is how many sagas the filter must select, as whoever gives the order
	// has counted them, or nothing is done. It is not looked at in a dry run.
	Expected int
	// Rate is how many sagas are told per second: 50 by default.
	Rate float64
	// DryRun tells what would become of each, and does nothing.
	DryRun bool
}

// BulkMax is how many sagas one [Bulk] may be for.
const BulkMax = 10_000

// Told by [Engine.Bulk] of each saga.
const (
	BulkDone     = "done"      // or would be, in a dry run
	BulkRefused  = "refused"   // for the reason in Code
	BulkNotFound = "not_found" // any more
)

// BulkItem is what became of one saga.
type BulkItem struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"` // done, refused or not_found
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	// Status and Revision of the saga after the order, when it was done.
	Status   Status `json:"status,omitempty"`
	Revision int64  `json:"revision,omitempty"`
}

// BulkCount counts what became of the sagas of a [Bulk].
type BulkCount struct {
	Selected int `json:"selected"`
	Done     int `json:"done"`
	Refused  int `json:"refused"`
	NotFound int `json:"not_found"`
}

// Bulk gives one order to all sagas that a filter selects, one after the other, at
// a bounded rate. begin is told how many there are before the first, each of every
// one after it. Sagas are selected once, at the start.
//
// The error is an [*OrderError] when nothing was done: count_differs,
// too_many_sagas, reason_required, invalid_verb. Any other error ended it on the
// way: what was told to each stands. To go on, give the order again with a new
// count: those that have obeyed are not selected any more, or refuse it.
func (e *Engine) Bulk(ctx context.Context, bulk Bulk, begin func(selected int), each func(BulkItem)) (BulkCount, error) {
	var count BulkCount
	if bulk.Order.By == "" || bulk.Order.Reason == "" {
		return count, noReason()
	}
	ids, err := e.selected(ctx, bulk.Filter)
	if err != nil {
		return count, err
	}
	count.Selected = len(ids)
	if !bulk.DryRun && len(ids) != bulk.Expected {
		return count, refuse("count_differs", "the filter selects %d sagas, not %d: look at them again", len(ids), bulk.Expected)
	}
	begin(len(ids))
	limit := rate.Inf
	if !bulk.DryRun {
		limit = rate.Limit(or(bulk.Rate, 50))
	}
	limiter := rate.NewLimiter(limit, 1)
	for _, id := range ids {
		if err := limiter.Wait(ctx); err != nil {
			return count, fmt.Errorf("bulk order: %w", err)
		}
		told, err := e.Order(ctx, id, bulk.Order, Condition{DryRun: bulk.DryRun})
		item := BulkItem{ID: id, Outcome: BulkDone, Status: told.Saga.Status, Revision: told.Revision}
		if refused, ok := errors.AsType[*OrderError](err); ok {
			item.Outcome, item.Code, item.Message = BulkRefused, refused.Code, refused.Message
			if refused.Code == "saga_not_found" {
				item.Outcome = BulkNotFound
			}
		} else if err != nil {
			return count, err
		}
		switch item.Outcome {
		case BulkDone:
			count.Done++
		case BulkNotFound:
			count.NotFound++
		default:
			count.Refused++
		}
		each(item)
	}
	return count, nil
}

// selected returns the ids of all sagas that a filter selects.
func (e *Engine) selected(ctx context.Context, filter Filter) (ids []string, err error) {
	reader := NewReader(e.pool)
	filter.Cursor, filter.Limit = "", 500
	for {
		page, err := reader.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for i := range page.Sagas {
			ids = append(ids, page.Sagas[i].ID)
		}
		if len(ids) > BulkMax {
			return nil, refuse("too_many_sagas", "the filter selects more than %d sagas: narrow it, by time for example", BulkMax)
		}
		if page.Next == "" {
			return ids, nil
		}
		filter.Cursor = page.Next
	}
}
