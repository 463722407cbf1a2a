package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

func by(verb saga.Verb) saga.Order { return saga.Order{Verb: verb, By: "ada", Reason: "a test"} }

func onStep(verb saga.Verb, step, data string) saga.Order {
	o := by(verb)
	o.Step, o.Data = step, json.RawMessage(data)
	return o
}

// order gives an order that must be obeyed.
func (b *bench) order(id string, order saga.Order) saga.Told {
	b.t.Helper()
	told, err := b.engine.Order(b.t.Context(), id, order, saga.Condition{})
	if err != nil {
		b.t.Fatalf("%s: %v", order.Verb, err)
	}
	return told
}

// refusal returns the code of an error that must be a refusal.
func refusal(t *testing.T, err error) string {
	t.Helper()
	refused, ok := errors.AsType[*saga.OrderError](err)
	if !ok || refused.Message == "" {
		t.Fatalf("error is %v, want a refusal that says why", err)
	}
	return refused.Code
}

func TestOrder(t *testing.T) {
	t.Parallel()
	running := func(t *testing.T, answered ...string) (b *bench, id string) {
		t.Helper()
		b, id = newBench(t), ids(1)[0]
		b.process(startOf(t, id))
		b.advance(id, answered...)
		b.exec("delete from outbox")
		return b, id
	}
	t.Run("a paused saga sends nothing and takes replies in", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		b.order(id, by(saga.Pause))
		b.advance(id, "alpha")
		b.wantSent(id, "")
		if in, _ := b.stored(id); !in.Paused || in.Steps[0].Status != saga.StepDone {
			t.Errorf("saga is %+v", in)
		}
		told := b.order(id, by(saga.Resume))
		b.wantSent(id, "beta.do")
		if len(told.Sends) != 1 || told.Sends[0].Step != "beta" || told.Sends[0].Type != doB.Type() || told.Sends[0].Undo {
			t.Errorf("told %+v", told.Sends)
		}
		b.advance(id, "beta", "gamma", "delta")
		if in, _ := b.stored(id); in.Status != saga.Completed {
			t.Errorf("saga is %s", in.Status)
		}
	})
	t.Run("a step is completed in its participant's place", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		b.order(id, onStep(saga.Complete, "alpha", `{"Number":7}`))
		b.wantSent(id, "beta.do")
		if in, _ := b.stored(id); !strings.Contains(string(in.State), `"Tickets":[7]`) {
			t.Errorf("state is %s", in.State)
		}
	})
	t.Run("a step is skipped, and undone all the same later", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		b.order(id, onStep(saga.Skip, "alpha", ""))
		b.order(id, by(saga.Compensate))
		b.wantSent(id, "beta.do beta.undo")
		b.advance(id, "-beta", "-alpha")
		if in, _ := b.stored(id); in.Status != saga.Compensated || in.Failure.Code != "compensated_by_operator" {
			t.Errorf("saga is %s because of %+v", in.Status, in.Failure)
		}
	})
	t.Run("what is awaited is issued again with the same id", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		told := b.order(id, by(saga.RetryNow))
		b.wantSent(id, "alpha.do")
		if told.Sends[0].ID != saga.DoID(id, "alpha") {
			t.Errorf("command %s, want %s", told.Sends[0].ID, saga.DoID(id, "alpha"))
		}
	})
	t.Run("an edited state is what later steps see", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		b.order(id, onStep(saga.Edit, "", `{"ID":"edited"}`))
		b.advance(id, "alpha")
		request, err := doB.Request(&b.outbox()[0].Event)
		if err != nil || request.Trip != "edited" {
			t.Errorf("request %+v, %v", request, err)
		}
	})
	t.Run("an abandoned saga ends as it stands", func(t *testing.T) {
		t.Parallel()
		b, id := running(t, "alpha")
		b.order(id, by(saga.Abandon))
		b.wantSent(id, "trip.abandoned")
		if _, ok := b.due(id); ok {
			t.Error("it has a timer still")
		}
	})
	t.Run("a saga that was stuck goes on when it is resumed, because it asks anew", func(t *testing.T) {
		t.Parallel()
		b, id := running(t, "alpha", "beta", "gamma")
		b.process(no(t, id, "delta"))
		b.want(id, saga.Stuck, 5)
		b.order(id, by(saga.Pause))
		if told := b.order(id, by(saga.Resume)); told.Saga.Status != saga.Running || told.Saga.Trouble != nil || len(told.Sends) != 1 {
			t.Errorf("saga is %s with %+v and sends %+v", told.Saga.Status, told.Saga.Trouble, told.Sends)
		}
	})
	t.Run("an undo that is repeated is as doubtful as it was", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		for _, order := range []saga.Order{by(saga.Cancel), by(saga.RetryNow)} {
			if told := b.order(id, order); len(told.Sends) != 1 || !told.Sends[0].Undo || !told.Sends[0].InDoubt {
				t.Errorf("%s sends %+v", order.Verb, told.Sends)
			}
		}
	})
	t.Run("a preview tells what a saga has to undo that was paused when it turned round", func(t *testing.T) {
		t.Parallel()
		b, id := running(t, "alpha")
		b.order(id, by(saga.Pause))
		b.process(no(t, id, "beta"))
		preview, err := b.engine.Preview(t.Context(), id)
		if err != nil || preview.Ends != saga.Compensated || len(preview.Sends) != 1 || preview.Sends[0].Step != "alpha" {
			t.Errorf("preview %+v, %v", preview, err)
		}
		if in, _ := b.stored(id); !in.Paused || in.Status != saga.Compensating {
			t.Errorf("the saga is %+v after it", in)
		}
	})
	t.Run("a dry run tells and does nothing", func(t *testing.T) {
		t.Parallel()
		b, id := running(t, "alpha")
		dry, err := b.engine.Order(t.Context(), id, by(saga.Cancel), saga.Condition{DryRun: true})
		if err != nil || dry.Saga.Status != saga.Compensating || dry.Revision != 3 {
			t.Fatalf("told %+v, %v", dry, err)
		}
		b.want(id, saga.Running, 2)
		b.wantSent(id, "")
		real := b.order(id, by(saga.Cancel))
		if len(real.Sends) != 1 || !real.Sends[0].Undo || !real.Sends[0].InDoubt || real.Sends[0].ID != dry.Sends[0].ID || string(real.Sends[0].Request) != string(dry.Sends[0].Request) {
			t.Errorf("told %+v, in the dry run %+v", real.Sends, dry.Sends)
		}
		b.want(id, saga.Compensating, 3)
	})
	t.Run("the history tells who gave the order and why", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		b.order(id, by(saga.Pause))
		history, err := saga.NewReader(b.pool).History(t.Context(), id)
		if err != nil || len(history) != 2 {
			t.Fatalf("history %+v, %v", history, err)
		}
		if cause := history[1].Cause; cause.Kind != "order" || cause.Order == nil || cause.Order.By != "ada" || cause.Order.Reason != "a test" {
			t.Errorf("cause %+v", cause)
		}
	})
	t.Run("a refusal changes nothing and says why", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		refused := func(id, want string, order saga.Order) {
			t.Helper()
			_, err := b.engine.Order(t.Context(), id, order, saga.Condition{})
			if code := refusal(t, err); code != want {
				t.Errorf("%+v is refused with %s, want %s", order, code, want)
			}
		}
		refused(id, "invalid_data", onStep(saga.Complete, "alpha", `{`))
		refused(id, "reason_required", saga.Order{Verb: saga.Pause, By: "ada"})
		refused(id, "not_paused", by(saga.Resume))
		refused(id, "step_not_found", onStep(saga.Skip, "beta", ""))
		refused(id, "invalid_verb", by("dance"))
		other := ids(1)[0]
		b.process(startOf(t, other))
		b.advance(other, "alpha")
		refused(other, "step_not_waiting", onStep(saga.RetryNow, "alpha", ""))
		b.order(other, by(saga.Pause))
		refused(other, "already_paused", by(saga.Pause))
		b.want(id, saga.Running, 1)
		b.wantSent(id, "")
		for _, nobody := range []string{events.NewID(), "x", ""} {
			_, err := b.engine.Order(t.Context(), nobody, by(saga.Pause), saga.Condition{})
			if code := refusal(t, err); code != "saga_not_found" {
				t.Errorf("an order to saga %q is refused with %s", nobody, code)
			}
		}
	})
	t.Run("a saga that has passed its pivot cannot be cancelled", func(t *testing.T) {
		t.Parallel()
		b, id := running(t, "alpha", "beta", "gamma")
		_, err := b.engine.Order(t.Context(), id, by(saga.Cancel), saga.Condition{})
		if code := refusal(t, err); code != "past_pivot" {
			t.Errorf("refused with %s", code)
		}
		if _, err := b.engine.Preview(t.Context(), id); refusal(t, err) != "past_pivot" {
			t.Errorf("preview: %v", err)
		}
	})
	t.Run("an engine without the definition refuses", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		other := standard()
		other.Version = 2
		_, err := b.another(other).Order(t.Context(), id, by(saga.Pause), saga.Condition{})
		if code := refusal(t, err); code != "definition_missing" {
			t.Errorf("refused with %s", code)
		}
	})
	t.Run("a context that has ended gives no order", func(t *testing.T) {
		t.Parallel()
		b, id := running(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.engine.Order(ctx, id, by(saga.Pause), saga.Condition{}); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		b.want(id, saga.Running, 1)
	})
}
