package consumer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
)

// later replies to a deferred command in a transaction of its own.
func (r *rig) later(key uuid.UUID, number int, rejected error) error {
	return postgres.InTx(r.t.Context(), r.pool, func(tx pgx.Tx) error {
		return consumer.Reply(r.t.Context(), tx, name, reserve, key, ticket{number}, rejected)
	})
}

// deferring sends a command whose handler defers its reply, and returns its key.
func (r *rig) deferring(item string) (events.Event, uuid.UUID) {
	r.t.Helper()
	keys := make(chan uuid.UUID, 1)
	r.on("reserve "+item, func(ctx context.Context, _ pgx.Tx, _ int) error {
		keys <- consumer.DeferredKey(ctx)
		return consumer.ErrDeferred
	})
	e := command(r.t, reserve, 0, item)
	r.send(e)
	r.pass(0)
	return e, <-keys
}

func TestDeferredReply(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		rejected error
		code     events.Code
		number   int
	}{
		"positive":  {nil, "", 42},
		"rejection": {events.Reject("out_of_stock", "none"), "out_of_stock", 0},
	} {
		t.Run("a "+what+" comes once, and again when the command does", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.feed()
			e, key := r.deferring("a")
			r.send(e) // nothing is known yet
			r.wantSilence(e)
			if err := r.later(key, 42, test.rejected); err != nil {
				t.Fatal(err)
			}
			if number := r.wantReply(e, test.code); number != test.number {
				t.Errorf("reply %d", number)
			}
			if err := r.later(key, 43, nil); !errors.Is(err, consumer.ErrNotDeferred) {
				t.Errorf("second reply: %v", err)
			}
			r.send(e)
			if number := r.wantReply(e, test.code); number != test.number {
				t.Errorf("reply %d when asked again", number)
			}
			r.wantSilence(e)
			r.wantCalls("reserve a", 1)
			r.wantEffects("reserve a")
		})
	}
	t.Run("nobody waits for it after the undo", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		e, key := r.deferring("a")
		back := undo(t, e, "a")
		r.send(back)
		r.wantReply(back, "")
		if err := r.later(key, 42, nil); !errors.Is(err, consumer.ErrNotDeferred) {
			t.Errorf("reply after the undo: %v", err)
		}
		r.send(e)
		r.wantReply(e, "revoked")
		r.wantEffects("reserve a", "release a")
	})
	t.Run("nor after an undo that is itself deferred", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("release a", func(context.Context, pgx.Tx, int) error { return consumer.ErrDeferred })
		r.feed()
		e, key := r.deferring("a")
		r.send(undo(t, e, "a"))
		r.pass(0)
		if err := r.later(key, 42, nil); !errors.Is(err, consumer.ErrNotDeferred) {
			t.Errorf("reply after the undo: %v", err)
		}
	})
	t.Run("a rejection of a deferred command leaves nothing to undo", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		e, key := r.deferring("a")
		if err := r.later(key, 0, events.Reject("out_of_stock", "none")); err != nil {
			t.Fatal(err)
		}
		back := undo(t, e, "a")
		r.send(back)
		r.wantReply(back, "")
		r.wantCalls("release a", 0)
	})
	t.Run("one that commits while the undo runs is seen by the undo", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		e, key := r.deferring("a")
		var seen []int
		r.on("release a", func(ctx context.Context, tx pgx.Tx, call int) error {
			var notes int
			err := tx.QueryRow(ctx, "select count(*) from stock where item <> $1", "").Scan(&notes)
			seen = append(seen, notes)
			if err != nil || call > 1 {
				return err
			}
			return postgres.InTx(ctx, r.pool, func(tx pgx.Tx) error { // the reply, with an effect
				if _, err := tx.Exec(ctx, "insert into stock values ('a')"); err != nil {
					return err
				}
				return consumer.Reply(ctx, tx, name, reserve, key, ticket{42}, nil)
			})
		})
		back := undo(t, e, "a")
		r.send(back)
		r.wantReply(back, "")
		r.wantReply(e, "")
		if len(seen) != 2 || seen[1] != 1 {
			t.Errorf("the undo saw %v effects of the reply", seen)
		}
		r.wantEffects("reserve a", "release a")
	})
	t.Run("only a rejection can be sent instead", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		e, key := r.deferring("a")
		if err := r.later(key, 0, errFlaky); !errors.Is(err, errFlaky) {
			t.Errorf("reply with a plain error: %v", err)
		}
		r.wantSilence(e)
		if err := r.later(key, 42, nil); err != nil {
			t.Errorf("it still waits: %v", err)
		}
		r.wantReply(e, "")
	})
}
