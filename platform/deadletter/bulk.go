package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"
)

// Verbs of a [Bulk].
const (
	VerbRedrive = "redrive"
	VerbDiscard = "discard"
)

// Bulk is one order for all letters that a filter selects.
type Bulk struct {
	Verb  string
	Order Order // its Revision is not looked at
	// Filter selects the letters. A redrive is for those that are dead: what is parked
	// follows by itself.
	Filter Filter
	// Expected is how many letters the filter must select, as whoever gives the order
	// has counted them, or nothing is done. It is not looked at in a dry run.
	Expected int
	// Rate is how many letters are told per second: 50 by default.
	Rate float64
	// TimeMax ends the order after that long, whatever is left; 0: never.
	TimeMax time.Duration
}

// BulkMax is how many letters one [Bulk] may be for.
const BulkMax = 10_000

// Outcomes of a [BulkItem].
const (
	BulkDone     = "done"      // or would be, in a dry run
	BulkRefused  = "refused"   // for the reason in Code
	BulkNotFound = "not_found" // any more
)

// BulkItem is what became of one letter.
type BulkItem struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"` // done, refused or not_found
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// BulkCount counts what became of the letters of a [Bulk].
type BulkCount struct {
	Selected int `json:"selected"`
	Done     int `json:"done"`
	Refused  int `json:"refused"`
	NotFound int `json:"not_found"`
}

// ErrTimeUp ends a [Bulk] whose TimeMax is over.
var ErrTimeUp = errors.New("the time of the order is up")

// RunBulk gives one order to all letters in those stores that its filter selects,
// the oldest of each store first. begin is told how many there are before the
// first, each of every one after it. Letters are selected once, at the start.
//
// The error is a [*RefusalError] when nothing was done. Any other error ended it on the
// way, and what was told to each stands: give the order again with a new count.
func RunBulk(ctx context.Context, stores []*Store, bulk Bulk, begin func(selected int), each func(BulkItem)) (BulkCount, error) {
	var count BulkCount
	switch {
	case bulk.Order.By == "" || bulk.Order.Reason == "":
		return count, refuse("reason_required", "by and reason tell who gives the order and why: they are kept in the letters' logs")
	case bulk.Verb != VerbRedrive && bulk.Verb != VerbDiscard:
		return count, refuse("invalid_verb", "verb must be redrive or discard")
	}
	if bulk.Verb == VerbRedrive && bulk.Filter.State == "" {
		bulk.Filter.State = Dead
	}
	bulk.Order.Revision = 0
	selected := make([][]int64, len(stores))
	for i, s := range stores {
		ids, err := s.selected(ctx, bulk.Filter)
		if err != nil {
			return count, err
		}
		selected[i] = ids
		count.Selected += len(ids)
	}
	switch {
	case count.Selected > BulkMax:
		return count, refuse("too_many_dead_letters", "the filter selects more than %d dead letters: narrow it, by time for example", BulkMax)
	case !bulk.Order.DryRun && count.Selected != bulk.Expected:
		return count, refuse("count_differs", "the filter selects %d dead letters, not %d: look at them again", count.Selected, bulk.Expected)
	}
	begin(count.Selected)
	bounded, cancel := within(ctx, bulk.TimeMax)
	defer cancel()
	limiter := newLimiter(bulk.Rate, bulk.Order.DryRun)
	for i, s := range stores {
		for _, id := range selected[i] {
			if err := turn(ctx, bounded, limiter); err != nil {
				return count, err
			}
			item, err := s.tell(ctx, id, bulk)
			if err != nil {
				return count, err
			}
			count.add(item.Outcome)
			each(item)
		}
	}
	return count, nil
}

func (c *BulkCount) add(outcome string) {
	switch outcome {
	case BulkDone:
		c.Done++
	case BulkNotFound:
		c.NotFound++
	default:
		c.Refused++
	}
}

// within returns ctx, bounded by the time that an order may take; 0: any.
func within(ctx context.Context, timeMax time.Duration) (context.Context, context.CancelFunc) {
	if timeMax <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeMax, ErrTimeUp)
}

// newLimiter is for an order of so many a second, 50 by default. A dry run takes no time.
func newLimiter(perSecond float64, dryRun bool) *rate.Limiter {
	limit := rate.Limit(perSecond)
	switch {
	case dryRun:
		limit = rate.Inf
	case limit == 0:
		limit = 50
	}
	return rate.NewLimiter(limit, 1)
}

// turn waits until the limiter allows the next one. The error is [ErrTimeUp] when that
// will not be while bounded lasts.
func turn(ctx, bounded context.Context, limiter *rate.Limiter) error {
	err := limiter.Wait(bounded)
	switch {
	case err == nil:
		return nil
	case bounded != ctx && ctx.Err() == nil: // it is not waited for what comes too late
		return ErrTimeUp
	}
	return fmt.Errorf("order ended on the way: %w", err)
}

// tell gives the order to one letter.
func (s *Store) tell(ctx context.Context, id int64, bulk Bulk) (BulkItem, error) {
	do := s.Redrive
	if bulk.Verb == VerbDiscard {
		do = s.Discard
	}
	item := BulkItem{ID: name(s.service, id), Outcome: BulkDone}
	_, err := do(ctx, id, bulk.Order)
	if refused, ok := errors.AsType[*RefusalError](err); ok {
		item.Outcome, item.Code, item.Message = BulkRefused, refused.Code, refused.Message
	} else if errors.Is(err, ErrNotFound) {
		item.Outcome = BulkNotFound
	} else if err != nil {
		return item, err
	}
	return item, nil
}

// selected returns the letters that a filter selects, the oldest first.
func (s *Store) selected(ctx context.Context, filter Filter) ([]int64, error) {
	rows, _ := s.pool.Query(ctx, "select id from dead_letter where "+where+" order by id limit $11", filter.arguments(BulkMax+1)...)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("select dead letters of %s: %w", s.service, err)
	}
	return ids, nil
}
