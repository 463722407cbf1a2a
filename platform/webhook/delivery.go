package webhook

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/postgres"
)

// The states of a delivery.
const (
	// DeliveryPending is to be sent, or sent again.
	DeliveryPending = "pending"
	// DeliveryDelivered was taken by the sink.
	DeliveryDelivered = "delivered"
	// DeliveryDead is a dead letter: the sink refused it, or did not take it in time.
	DeliveryDead = "dead"
)

// Delivery is one event for one subscription.
type Delivery struct {
	// ID is the webhook-id. It stays the same however often the event is sent.
	ID           string     `json:"id"`
	Subscription string     `json:"subscription"`
	EventID      string     `json:"event_id"`
	EventSource  string     `json:"event_source"`
	EventType    string     `json:"event_type"`
	Key          string     `json:"key"`
	State        string     `json:"state"`
	Attempts     int        `json:"attempts"`
	Created      time.Time  `json:"created"`
	Due          *time.Time `json:"due,omitempty"`   // while pending
	Ended        *time.Time `json:"ended,omitempty"` // otherwise
	Status       int        `json:"status,omitzero"`
	Error        string     `json:"error,omitempty"`
	// Log is there when a single delivery is asked for.
	Log []Attempt `json:"log,omitempty"`
}

// Attempt is one request, and what became of it.
type Attempt struct {
	Number     int       `json:"number"`
	Began      time.Time `json:"began"`
	DurationMS int       `json:"duration_ms"`
	Status     int       `json:"status,omitzero"` // absent: there was no answer
	Error      string    `json:"error,omitempty"`
}

// DeliveryFilter selects deliveries of a subscription; empty fields select all.
type DeliveryFilter struct {
	State  string
	Type   string
	After  time.Time // created at that time or later
	Before time.Time
}

// DeliveryPage is a part of a list, newest first.
type DeliveryPage struct {
	Deliveries []Delivery
	Next       string
}

const deliveryColumns = `d.id::text, d.subscription::text, e.attributes, d.event_type, d.key, d.state, d.attempts, d.created_at, d.due_at,
	d.ended_at, coalesce(d.status, 0), d.error, d.seq`

func scanDelivery(row pgx.CollectableRow, seq *int64) (d Delivery, err error) {
	var (
		attributes []byte
		due        time.Time
	)
	err = row.Scan(&d.ID, &d.Subscription, &attributes, &d.EventType, &d.Key, &d.State, &d.Attempts, &d.Created, &due,
		&d.Ended, &d.Status, &d.Error, seq)
	if err != nil {
		return d, err
	}
	event, err := events.ParseAttributes(attributes, nil)
	if err != nil {
		return d, fmt.Errorf("event of delivery %s: %w", d.ID, err)
	}
	d.EventID, d.EventSource, d.Created = event.ID, event.Source, d.Created.UTC()
	if d.Ended != nil {
		*d.Ended = d.Ended.UTC()
	} else {
		due = due.UTC()
		d.Due = &due
	}
	return d, nil
}

// where returns the conditions of a filter and their arguments, after those given.
func (f DeliveryFilter) where(args ...any) (string, []any) {
	text := ""
	add := func(condition string, value any) {
		args = append(args, value)
		text += " and " + condition + "$" + strconv.Itoa(len(args))
	}
	if f.State != "" {
		add("d.state = ", f.State)
	}
	if f.Type != "" {
		add("d.event_type = ", f.Type)
	}
	if !f.After.IsZero() {
		add("d.created_at >= ", f.After)
	}
	if !f.Before.IsZero() {
		add("d.created_at < ", f.Before)
	}
	return text, args
}

// Deliveries lists what was and is to be sent for a subscription, newest first, from
// where the cursor says.
func (s *Store) Deliveries(ctx context.Context, scope Scope, id string, f DeliveryFilter, cursor string, limit int) (DeliveryPage, error) {
	r, err := s.load(ctx, s.pool, scope, id, "")
	if err != nil {
		return DeliveryPage{}, err
	}
	before := int64(1<<63 - 1)
	if cursor != "" {
		if before, err = strconv.ParseInt(cursor, 10, 64); err != nil {
			return DeliveryPage{}, ErrCursor
		}
	}
	limit = max(1, min(limit, ListMax))
	where, args := f.where(r.id, before, limit+1)
	rows, err := s.pool.Query(ctx, "select "+deliveryColumns+` from webhook_delivery as d join webhook_event as e on e.id = d.event
		where d.subscription = $1 and d.seq < $2`+where+`
		order by d.seq desc limit $3`, args...)
	if err != nil {
		return DeliveryPage{}, fmt.Errorf("list deliveries of %s: %w", id, err)
	}
	var seqs []int64
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Delivery, error) {
		var seq int64
		d, err := scanDelivery(row, &seq)
		seqs = append(seqs, seq)
		return d, err
	})
	if err != nil {
		return DeliveryPage{}, fmt.Errorf("list deliveries of %s: %w", id, err)
	}
	page := DeliveryPage{Deliveries: append([]Delivery{}, all[:min(limit, len(all))]...)}
	if len(all) > limit {
		page.Next = strconv.FormatInt(seqs[limit-1], 10)
	}
	return page, nil
}

// Delivery returns one delivery with the log of its attempts.
func (s *Store) Delivery(ctx context.Context, scope Scope, id string) (Delivery, error) {
	key, err := uuid.Parse(id)
	if err != nil || key.String() != id {
		return Delivery{}, ErrNotFound
	}
	rows, err := s.pool.Query(ctx, "select "+deliveryColumns+` from webhook_delivery as d join webhook_event as e on e.id = d.event
		join webhook_subscription as s on s.id = d.subscription
		where d.id = $1 and s.state <> 'deleted' and ($2 or s.tenant = $3)`, key, scope.Everyone, scope.Tenant)
	if err != nil {
		return Delivery{}, fmt.Errorf("read delivery %s: %w", id, err)
	}
	var seq int64
	d, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (Delivery, error) { return scanDelivery(row, &seq) })
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Delivery{}, ErrNotFound
	case err != nil:
		return Delivery{}, fmt.Errorf("read delivery %s: %w", id, err)
	}
	rows, err = s.pool.Query(ctx, `
		select number, began_at, duration_ms, coalesce(status, 0), error from webhook_attempt
		where delivery = $1 order by number`, key)
	if err != nil {
		return Delivery{}, fmt.Errorf("read attempts of %s: %w", id, err)
	}
	if d.Log, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Attempt]); err != nil {
		return Delivery{}, fmt.Errorf("read attempts of %s: %w", id, err)
	}
	for i := range d.Log {
		d.Log[i].Began = d.Log[i].Began.UTC()
	}
	return d, nil
}

// RedeliverMax is how many deliveries one call sends again at most.
const RedeliverMax = 1000

// Redeliver sends deliveries of a subscription again, with the same webhook-id: that
// one, which may also be sent before it is due, or with an empty id those that have ended
// and that the filter selects, the oldest first, at most [RedeliverMax]. It returns how
// many. Where the subscription keeps the
// order of keys, what comes after one of them waits for it.
func (s *Store) Redeliver(ctx context.Context, scope Scope, subscription, id string, f DeliveryFilter) (int, error) {
	n := 0
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		r, err := s.load(ctx, tx, scope, subscription, "for share")
		if err != nil {
			return err
		}
		if r.state == Disabled || r.state == Pending {
			return fmt.Errorf("%w: it is %s, and sends nothing", ErrState, r.state)
		}
		where, args := f.where(r.id, s.config.RetryFor, RedeliverMax)
		where += " and d.state <> 'pending'"
		if id != "" {
			key, err := uuid.Parse(id)
			if err != nil || key.String() != id {
				return ErrNotFound
			}
			where, args = " and d.id = $4", []any{r.id, s.config.RetryFor, RedeliverMax, key}
		}
		tag, err := tx.Exec(ctx, `
			update webhook_delivery set state = 'pending', tried = 0, ended_at = null, due_at = clock_timestamp(), give_up_at = clock_timestamp() + $2::interval
			where id in (
				select d.id from webhook_delivery as d
				where d.subscription = $1`+where+`
				order by d.seq limit $3 for update
			)`, args...)
		if err != nil {
			return fmt.Errorf("redeliver to %s: %w", subscription, err)
		}
		if n = int(tag.RowsAffected()); n == 0 && id != "" {
			return ErrNotFound
		}
		return nil
	})
	if err == nil {
		s.woken()
	}
	return n, err
}
