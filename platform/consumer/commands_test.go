package consumer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	t.Run("a command that comes twice has one effect and the same reply twice", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		e := command(t, reserve, 0, "a")
		r.send(e, e) // both may share a batch
		r.feed()
		first := r.wantReply(e, "")
		if again := r.wantReply(e, ""); again != first || first == 0 {
			t.Errorf("replies %d and %d", first, again)
		}
		r.send(e) // and this one comes to a stored inbox
		if again := r.wantReply(e, ""); again != first {
			t.Errorf("replies %d and %d", first, again)
		}
		r.wantEffects("reserve a")
	})
	t.Run("a rejection that is asked for again is the same rejection", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(context.Context, pgx.Tx, int) error { return events.Reject("out_of_stock", "none") })
		e := command(t, reserve, 0, "a")
		r.feed()
		r.send(e)
		r.wantReply(e, "out_of_stock")
		r.send(e)
		r.wantReply(e, "out_of_stock")
		r.wantEffects()
		r.wantCalls("reserve a", 1)
	})
	t.Run("a rejection takes back its own writes and leaves its neighbours'", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve b", func(context.Context, pgx.Tx, int) error { return events.Reject("out_of_stock", "none") })
		a, b, c := command(t, reserve, 0, "a"), command(t, reserve, 0, "b"), command(t, reserve, 1, "c")
		if _, err := r.process(a, b, c); err != nil {
			t.Fatal(err)
		}
		r.wantReply(a, "")
		r.wantReply(b, "out_of_stock")
		r.wantReply(c, "")
		r.wantEffects("reserve a", "reserve c")
	})
	t.Run("a command without a reply address is obeyed in silence", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		e := command(t, reserve, 0, "a")
		e.ReplyTo = ""
		r.feed()
		r.send(e, e)
		r.wantSilence(e)
		r.wantEffects("reserve a")
	})
	t.Run("Emit publishes only what a success emitted", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		emit := func(then func(call int) error) behaviour {
			return func(ctx context.Context, _ pgx.Tx, call int) error {
				if err := consumer.Emit(ctx, reserved, "subject", item{string(consumer.Command(ctx).Data)}); err != nil {
					return err
				}
				return then(call)
			}
		}
		r.on("reserve rejected", emit(func(int) error { return events.Reject("out_of_stock", "none") }))
		r.on("reserve terminal", emit(func(int) error { return consumer.Terminal(errFlaky) }))
		r.on("reserve flaky", emit(func(call int) error {
			if call == 1 {
				return errFlaky
			}
			return nil
		}))
		r.feed()
		flaky := command(t, reserve, 0, "flaky")
		r.send(command(t, reserve, 0, "rejected"), command(t, reserve, 0, "terminal"), flaky, flaky)
		r.wantReply(flaky, "")
		r.wantReply(flaky, "")
		r.pass(0)
		last := command(t, reserve, 0, "last")
		r.on("reserve last", emit(func(int) error { return nil }))
		r.send(last)
		r.wantReply(last, "")
		var got []string
		for len(got) < 2 {
			deliveries, err := r.facts.Next(t.Context(), 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range deliveries {
				fact, err := reserved.Payload(&d.Event)
				if err != nil || d.Event.PartitionKey != "subject" || d.Event.CorrelationID != key(0) {
					t.Errorf("fact %+v, %v", d.Event, err)
				}
				got = append(got, d.Event.CausationID)
				_ = fact
			}
		}
		if len(got) != 2 || got[0] != flaky.ID || got[1] != last.ID {
			t.Errorf("facts caused by %q, want %q", got, []string{flaky.ID, last.ID})
		}
	})
	t.Run("two handlers of one type, or no name, are refused", func(t *testing.T) {
		t.Parallel()
		h := consumer.Handle(reserve, func(context.Context, pgx.Tx, item) (ticket, error) { return ticket{}, nil })
		if _, err := consumer.NewCommands(nil, consumer.CommandsConfig{Name: name}, h, h); err == nil {
			t.Error("two handlers were accepted")
		}
		if _, err := consumer.NewCommands(nil, consumer.CommandsConfig{}, h); err == nil {
			t.Error("no name was accepted")
		}
	})
	t.Run("Terminal keeps nil and the cause", func(t *testing.T) {
		t.Parallel()
		if consumer.Terminal(nil) != nil || !errors.Is(consumer.Terminal(errFlaky), errFlaky) {
			t.Error("Terminal changed its error")
		}
	})
}

func TestUndo(t *testing.T) {
	t.Parallel()
	t.Run("before the action: nothing is called, and the late action is refused", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		action := command(t, reserve, 0, "a")
		back := undo(t, action, "a")
		r.send(back, action, action, back)
		r.wantReply(back, "")
		r.wantReply(action, "revoked")
		r.wantReply(action, "revoked")
		r.wantReply(back, "")
		r.wantEffects()
		r.wantCalls("release a", 0)
	})
	t.Run("after the action: once", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		action := command(t, reserve, 0, "a")
		back := undo(t, action, "a")
		r.send(action, back, back)
		r.feed()
		r.wantReply(action, "")
		r.wantReply(back, "")
		r.wantReply(back, "")
		r.send(back)
		r.wantReply(back, "")
		r.wantEffects("reserve a", "release a")
	})
	t.Run("of a rejected action: nothing is called", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(context.Context, pgx.Tx, int) error { return events.Reject("out_of_stock", "none") })
		r.feed()
		action := command(t, reserve, 0, "a")
		back := undo(t, action, "a")
		r.send(action, back)
		r.wantReply(action, "out_of_stock")
		r.wantReply(back, "")
		r.wantEffects()
		r.wantCalls("release a", 0)
	})
	for _, deferred := range []bool{false, true} {
		what := "a command that has replied"
		if deferred {
			what = "a deferred command"
		}
		t.Run("of "+what+": one that fails once does undo", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			if deferred {
				r.on("reserve a", func(context.Context, pgx.Tx, int) error { return consumer.ErrDeferred })
			}
			r.on("release a", func(_ context.Context, _ pgx.Tx, call int) error {
				if call == 1 {
					return errFlaky
				}
				return nil
			})
			r.feed()
			action := command(t, reserve, 0, "a")
			back := undo(t, action, "a")
			r.send(action, back)
			r.wantReply(back, "")
			r.wantCalls("release a", 2)
			r.wantEffects("reserve a", "release a")
		})
	}
}
