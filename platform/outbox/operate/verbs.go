package operate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/postgres"
)

// Order says who gives an order and why.
type Order struct {
	By, Reason string
	// DryRun says what would be done, and does nothing.
	DryRun bool
}

// Verbs of the log.
const (
	VerbRequeue = "requeue"
	VerbDiscard = "discard"
)

// Result of an order.
type Result struct {
	Row Row `json:"row"` // as it was
	// Followers is how many rows were parked behind it and wait for the relay now.
	Followers int `json:"followers"`
}

// Requeue gives a dead row to the relay again, in its old place: before what is
// parked behind it, which follows in order. When the broker refuses it again, it is
// dead again and they are parked.
func (o *Outbox) Requeue(ctx context.Context, id int64, order Order) (Result, error) {
	return o.order(ctx, id, VerbRequeue, order, `
		insert into outbox (lane, id, publish_id, topic, attributes, data, created_at)
		select lane, id, publish_id, topic, attributes, data, created_at from gone`)
}

// Discard gives a dead row up; what is parked behind it follows in order. The log
// keeps the event.
func (o *Outbox) Discard(ctx context.Context, id int64, order Order) (Result, error) {
	return o.order(ctx, id, VerbDiscard, order, "select from gone")
}

// errDryRun rolls an order back that was given to see what it does.
var errDryRun = errors.New("dry run")

func (o *Outbox) order(ctx context.Context, id int64, verb string, order Order, do string) (result Result, err error) {
	if order.By == "" || order.Reason == "" {
		return result, &RefusalError{"reason_required", "by and reason tell who gives the order and why: they are kept in the row's log"}
	}
	err = postgres.InTx(ctx, o.pool, func(tx pgx.Tx) error {
		// The relay takes this lock to park a row behind this one.
		if _, err := tx.Exec(ctx, "select from outbox_dead where id = $1 for update", id); err != nil {
			return fmt.Errorf("lock outbox row: %w", err)
		}
		d, err := o.get(ctx, tx, id)
		if err != nil {
			return err
		}
		if result = (Result{Row: d.Row}); d.State == Parked {
			return &RefusalError{"outbox_row_parked", d.Why}
		}
		_, err = tx.Exec(ctx, `
			insert into outbox_log (row, verb, done_by, note, publish_id, topic, error, attributes, data)
			select id, $2, $3, $4, publish_id, topic, error, attributes, data from outbox_dead where id = $1`, id, verb, order.By, order.Reason)
		if err != nil {
			return fmt.Errorf("log order: %w", err)
		}
		tag, err := tx.Exec(ctx, `
			with gone as (
				delete from outbox_dead as f using outbox_dead as d
				where d.id = $1 and d.parks and f.state = 'parked' and f.lane = d.lane and f.key = d.key
				returning f.*
			)
			insert into outbox (lane, id, publish_id, topic, attributes, data, created_at)
			select lane, id, publish_id, topic, attributes, data, created_at from gone`, id)
		if err != nil {
			return fmt.Errorf("%s outbox row: %w", verb, err)
		}
		result.Followers = int(tag.RowsAffected())
		if _, err := tx.Exec(ctx, "with gone as (delete from outbox_dead where id = $1 returning *) "+do, id); err != nil {
			return fmt.Errorf("%s outbox row: %w", verb, err)
		}
		if order.DryRun {
			return errDryRun
		}
		return nil
	})
	if errors.Is(err, errDryRun) {
		return result, nil
	}
	if err == nil && o.relay != nil {
		o.relay.Wake()
	}
	return result, err
}
