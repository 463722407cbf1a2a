package saga_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

var verdict = events.NewFact[struct{ Number int }]("test.review.decided.v1")

// reviewed is alpha, then a person's decision, then beta.
func reviewed() saga.Definition[trip] {
	d := define()
	d.Flow = saga.Sequence[trip]{
		alpha(),
		saga.Await[trip]{
			Name: "review", Timeout: time.Hour,
			For: saga.Signal(verdict, func(s *trip, d struct{ Number int }) { s.Tickets = append(s.Tickets, d.Number) }),
		},
		beta(),
	}
	return d
}

func TestSignal(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (b *bench, id string) {
		t.Helper()
		b, id = newBench(t, reviewed()), ids(1)[0]
		b.process(startOf(t, id))
		return b, id
	}
	order := func(step, data string) saga.Order {
		return saga.Order{By: "ada", Reason: "she decided by phone", Step: step, Data: json.RawMessage(data)}
	}
	t.Run("a saga that awaits it goes on", func(t *testing.T) {
		t.Parallel()
		b, id := setup(t)
		b.advance(id, "alpha")
		told, err := b.engine.Signal(t.Context(), id, "", order("review", `{"Number":5}`), saga.Condition{})
		if err != nil || len(told.Sends) != 1 || told.Sends[0].Step != "beta" {
			t.Fatalf("told %+v, %v", told, err)
		}
		b.wantSent(id, "alpha.do beta.do")
		history, err := saga.NewReader(b.pool).History(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		cause := history[len(history)-1].Cause
		if cause.Kind != "signal" || cause.Event == "" || cause.Order == nil || cause.Order.By != "ada" || cause.Order.Verb != saga.SendSignal {
			t.Errorf("cause %+v", cause)
		}
	})
	t.Run("it is kept until it is awaited, and counts once", func(t *testing.T) {
		t.Parallel()
		b, id := setup(t)
		for range 2 {
			told, err := b.engine.Signal(t.Context(), id, "the-decision", order(verdict.Type(), `{"Number":5}`), saga.Condition{})
			if err != nil || told.Revision != 2 {
				t.Fatalf("told %+v, %v", told, err)
			}
		}
		b.advance(id, "alpha")
		b.wantSent(id, "alpha.do beta.do")
		if in, _ := b.stored(id); string(in.State) == "" || len(in.Signals) != 0 {
			t.Errorf("saga %+v", in)
		}
	})
	t.Run("a refusal says why and changes nothing", func(t *testing.T) {
		t.Parallel()
		b, id := setup(t)
		for want, o := range map[string]saga.Order{
			"signal_not_awaited": order("test.other.happened.v1", ""),
			"step_not_found":     order("", ""),
			"invalid_data":       order("review", `{"Number":"many"}`),
			"reason_required":    {Step: "review", By: "ada"},
		} {
			_, err := b.engine.Signal(t.Context(), id, "", o, saga.Condition{})
			if code := refusal(t, err); code != want {
				t.Errorf("refused with %s, want %s", code, want)
			}
		}
		b.want(id, saga.Running, 1)
		b.order(id, by(saga.Cancel))
		_, err := b.engine.Signal(t.Context(), id, "", order("review", `{}`), saga.Condition{})
		if code := refusal(t, err); code != "already_compensating" {
			t.Errorf("refused with %s", code)
		}
	})
}
