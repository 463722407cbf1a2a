package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
)

// Order says who gives an order and why, and under which condition.
type Order struct {
	By, Reason string
	// Revision that the letter must have; 0: any.
	Revision int64
	// DryRun says what would become of the letter, and does nothing.
	DryRun bool
	// Force redrives a letter that was redriven [RedrivesMax] times.
	Force bool
}

// Redrive has the letter handled again by its consumer, within about a second. What
// is parked behind it follows in order. It is refused, with a [*RefusalError], for a
// letter that is parked itself, that is being redriven, or that has been redriven
// too often.
func (s *Store) Redrive(ctx context.Context, id int64, order Order) (Letter, error) {
	return s.order(ctx, id, order, func(tx pgx.Tx, l *Letter) error {
		switch {
		case l.State == Parked:
			return refuse("dead_letter_parked", "it waits behind %s: redrive or discard that one, and this one follows in order", l.Behind)
		case l.State == Redriving:
			return refuse("already_redriving", "it is being redriven; is its consumer running?")
		case l.Redrives >= RedrivesMax && !order.Force:
			return refuse("redriven_too_often", "it has been redriven %d times and died again: mend the cause or edit it, then redrive it with force", l.Redrives)
		}
		if err := s.write(ctx, tx, id, "redrive", order); err != nil {
			return err
		}
		return exec(ctx, tx, "update dead_letter set state = 'redriving', redrives = redrives + 1, revision = revision + 1 where id = $1", id)
	})
}

// Discard gives the letter up. What is parked behind it is handled then. The log
// keeps the event.
func (s *Store) Discard(ctx context.Context, id int64, order Order) (Letter, error) {
	return s.order(ctx, id, order, func(tx pgx.Tx, _ *Letter) error {
		if err := s.write(ctx, tx, id, "discard", order); err != nil {
			return err
		}
		return exec(ctx, tx, "delete from dead_letter where id = $1", id)
	})
}

// Edit replaces the event of a letter; redrive it then. Its place among those of
// its key stays. It is refused when the event is none or too large, and while the
// letter is being redriven.
func (s *Store) Edit(ctx context.Context, id int64, event events.Event, order Order) (Letter, error) {
	if err := event.Validate(); err != nil {
		return Letter{}, refuse("invalid_event", "%s", err)
	}
	if len(event.Data) > broker.MessageBytesMax {
		return Letter{}, refuse("invalid_event", "%d bytes of data, at most %d are allowed", len(event.Data), broker.MessageBytesMax)
	}
	return s.order(ctx, id, order, func(tx pgx.Tx, l *Letter) error {
		if l.State == Redriving {
			return refuse("already_redriving", "it is being redriven: edit it when it has died again")
		}
		if err := s.write(ctx, tx, id, "edit", order); err != nil {
			return err
		}
		c := contentOf(&event)
		return exec(ctx, tx, `
			update dead_letter set attributes = $2, data = $3, event_id = $4, event_type = $5, correlation = $6, revision = revision + 1
			where id = $1`, id, c.attributes, c.data, event.ID, event.Type, event.CorrelationID)
	})
}

// errDryRun rolls an order back that was given to see what it does.
var errDryRun = errors.New("dry run")

// order does something to a letter under its row lock, and returns the letter as it
// is then, or was when it is gone.
func (s *Store) order(ctx context.Context, id int64, order Order, do func(tx pgx.Tx, l *Letter) error) (l Letter, err error) {
	if order.By == "" || order.Reason == "" {
		return l, refuse("reason_required", "by and reason tell who gives the order and why: they are kept in the letter's log")
	}
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if err := exec(ctx, tx, "select from dead_letter where id = $1 for update", id); err != nil {
			return err
		}
		var err error
		if l, err = s.get(ctx, tx, id); err != nil {
			return err
		}
		if order.Revision != 0 && order.Revision != l.Revision {
			return refuse("revision_moved", "it is at revision %d", l.Revision)
		}
		if err := do(tx, &l); err != nil {
			return err
		}
		if after, err := s.get(ctx, tx, id); err == nil {
			l = after
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		if order.DryRun {
			return errDryRun
		}
		return nil
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	return l, err
}

// write adds what is about to be done to the log, with the event as it is.
func (s *Store) write(ctx context.Context, tx pgx.Tx, id int64, verb string, order Order) error {
	kept := verb == "edit" || verb == "discard" // the others leave the event as it is
	return exec(ctx, tx, `
		insert into dead_letter_log (letter, verb, done_by, note, consumer, topic, partition, position, event_id, event_type, attributes, data)
		select id, $2, $3, $4, consumer, topic, partition, position, event_id, event_type,
			case when $5 then attributes end, case when $5 then data end
		from dead_letter where id = $1`, id, verb, order.By, order.Reason, kept)
}

func exec(ctx context.Context, tx pgx.Tx, sql string, args ...any) error {
	if _, err := tx.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}
