package order

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
)

// Limits of one transaction of the read model. The router handles one fact per
// partition at a time, so there are seldom more.
const (
	summariesMax     = 100
	summariesTimeout = 30 * time.Second
)

// counted are the facts that the customer summaries are made from.
var counted = map[string]events.Fact[shop.OrderChanged]{
	shop.OrderPlaced.Type():    shop.OrderPlaced,
	shop.OrderConfirmed.Type(): shop.OrderConfirmed,
	shop.OrderCancelled.Type(): shop.OrderCancelled,
}

// summed is a fact with what it adds to the summary of its customer.
type summed struct {
	id                            string // of the event, in all the world
	pending, confirmed, cancelled int64
	order                         shop.OrderChanged
}

// summaryOf returns what a fact adds.
func summaryOf(e *events.Event, o shop.OrderChanged) (summed, error) {
	fact := summed{id: e.Source + " " + e.ID, order: o}
	switch o.Status {
	case statusPending:
		fact.pending = 1
	case statusConfirmed:
		fact.pending, fact.confirmed = -1, 1
	case statusCancelled:
		fact.pending, fact.cancelled = -1, 1
	default:
		return fact, fmt.Errorf("%w: order fact with status %q", events.ErrInvalid, o.Status)
	}
	return fact, nil
}

// count adds a fact to the summary of its customer, once, by a statement that it
// shares with those that arrive together.
func (m *ReadModel) count(ctx context.Context, e *events.Event, o shop.OrderChanged) error {
	fact, err := summaryOf(e, o)
	if err == nil {
		_, err = m.summaries.Do(ctx, fact)
	}
	if err != nil {
		return fmt.Errorf("count %s of order %s: %w", e.Type, o.OrderID, err)
	}
	return nil
}

// executor is a pool or a transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// summarise counts facts in one statement, and so in one transaction and one
// round trip, whose price the facts share: there are two of them to each order.
// It does nothing for a fact that has been seen. Rows change in the order of
// their keys, so that two processes do not wait for each other.
func summarise(ctx context.Context, db executor, facts ...summed) error {
	var (
		n                             = len(facts)
		ids, customers, currencies    = make([]string, n), make([]string, n), make([]string, n)
		pending, confirmed, cancelled = make([]int64, n), make([]int64, n), make([]int64, n)
		totals                        = make([]int64, n)
	)
	for i, fact := range facts {
		ids[i], customers[i], currencies[i], totals[i] = fact.id, fact.order.Customer, fact.order.Currency, fact.order.Total
		pending[i], confirmed[i], cancelled[i] = fact.pending, fact.confirmed, fact.cancelled
	}
	_, err := db.Exec(ctx, `
		with fact as (
			select distinct on (event_id) *
			from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[])
				as f (event_id, customer, pending, confirmed, cancelled, currency, total)
			order by event_id
		), seen as (
			insert into customer_summary_seen (event_id) select event_id from fact
			on conflict do nothing returning event_id
		), fresh as (
			select fact.* from fact join seen using (event_id)
		), summary as (
			insert into customer_summary as s (customer, pending, confirmed, cancelled)
			select customer, sum(pending), sum(confirmed), sum(cancelled) from fresh group by customer order by customer
			on conflict (customer) do update set pending = s.pending + excluded.pending, updated_at = clock_timestamp(),
				confirmed = s.confirmed + excluded.confirmed, cancelled = s.cancelled + excluded.cancelled
		)
		insert into customer_spending as s (customer, currency, spent)
		select customer, currency, sum(total) from fresh where confirmed > 0
		group by customer, currency order by customer, currency
		on conflict (customer, currency) do update set spent = s.spent + excluded.spent`,
		ids, customers, pending, confirmed, cancelled, currencies, totals)
	return err
}
