package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/postgres"
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

// An order and a reply that meet are applied one after the other, whichever is
// first, although each of the two engines has read the saga before.
func TestOrderRacesAReply(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (b *bench, second *saga.Engine, id string) {
		b, id = newBench(t), ids(1)[0]
		b.process(startOf(t, id))
		b.exec("delete from outbox")
		return b, b.another(), id
	}
	t.Run("the order first: the reply still counts", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		if _, err := second.Order(t.Context(), id, by(saga.Pause), saga.Condition{}); err != nil {
			t.Fatal(err)
		}
		b.advance(id, "alpha") // by the engine that has the saga in memory as it was
		b.want(id, saga.Running, 3)
		b.wantSent(id, "")
	})
	t.Run("the reply first: the order is decided on what it left", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		if err := b.try(t.Context(), second, ok(t, id, "alpha")); err != nil {
			t.Fatal(err)
		}
		told := b.order(id, by(saga.Cancel))
		if len(told.Sends) != 1 || told.Sends[0].Step != "beta" || told.Revision != 3 {
			t.Errorf("told %+v", told)
		}
	})
	t.Run("a completion of a step that was answered meanwhile is refused", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		if err := b.try(t.Context(), second, ok(t, id, "alpha")); err != nil {
			t.Fatal(err)
		}
		_, err := b.engine.Order(t.Context(), id, onStep(saga.Complete, "alpha", `{"Number":9}`), saga.Condition{})
		if code := refusal(t, err); code != "step_not_waiting" {
			t.Errorf("refused with %s", code)
		}
	})
	t.Run("many of both at the same time", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		all := ids(40)
		b.process(starts(t, all...)...)
		var group sync.WaitGroup
		for _, id := range all {
			group.Go(func() {
				if _, err := b.engine.Order(t.Context(), id, by(saga.Pause), saga.Condition{}); err != nil {
					t.Errorf("pause %s: %v", id, err)
				}
			})
		}
		for _, id := range all {
			b.process(ok(t, id, "alpha"))
		}
		group.Wait()
		for _, id := range all {
			in, revision := b.stored(id)
			if !in.Paused || revision != 3 || in.Steps[0].Status != saga.StepDone {
				t.Errorf("saga %s at revision %d is %+v", id, revision, in)
			}
			if _, err := saga.NewReader(b.pool).History(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOfOperatorsAtOnceOneWins(t *testing.T) {
	t.Parallel()
	b, id := newBench(t), ids(1)[0]
	b.process(startOf(t, id))
	var (
		group       sync.WaitGroup
		won, missed atomic.Int32
	)
	for range 8 {
		group.Go(func() {
			_, err := b.engine.Order(t.Context(), id, by(saga.RetryNow), saga.Condition{Revision: 1})
			if err == nil {
				won.Add(1)
			} else if refused, ok := errors.AsType[*saga.OrderError](err); ok && refused.Code == "revision_moved" {
				missed.Add(1)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 || missed.Load() != 7 {
		t.Errorf("%d have won and %d were told that the saga has moved", won.Load(), missed.Load())
	}
	b.want(id, saga.Running, 2)
}

func TestOrderWhoseCommitGotNoAnswerIsGivenOnce(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"the answer is lost": false, "the question is lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, id := newBench(t), ids(1)[0]
			b.process(startOf(t, id))
			b.exec("delete from outbox")
			trouble := &mishap{}
			pool := b.wire(trouble)
			trouble.arm("lost on the way", 2, before, nil)
			engine, err := saga.NewEngine(pool, saga.EngineConfig{}, standard())
			if err != nil {
				t.Fatal(err)
			}
			order := by(saga.RetryNow)
			order.Reason = "lost on the way"
			told, err := engine.Order(t.Context(), id, order, saga.Condition{Revision: 1})
			if err != nil || told.Revision != 2 || len(told.Sends) != 1 {
				t.Fatalf("told %+v, %v", told, err)
			}
			b.want(id, saga.Running, 2)
			b.wantSent(id, "alpha.do")
			if in, _ := b.stored(id); in.Steps[0].Do.Attempts != told.Saga.Steps[0].Do.Attempts {
				t.Errorf("stored %+v, told %+v", in.Steps[0], told.Saga.Steps[0])
			}
		})
	}
}

func TestBegin(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	begun := func(b *bench, key string, request booking) (id string, err error) {
		b.t.Helper()
		failed := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
			id, err = saga.Begin(ctx, b.engine, tx, begin, key, request)
			_, alive := tx.Exec(ctx, "select 1")
			return alive
		})
		if failed != nil {
			b.t.Fatal(failed)
		}
		return id, err
	}
	t.Run("a saga and its command commit with the caller", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		id, err := begun(b, "order-1", booking{Trip: "x"})
		if err != nil || id != saga.KeyID("trip", "order-1") {
			t.Fatalf("Begin() = %s, %v", id, err)
		}
		b.want(id, saga.Running, 1)
		b.wantSent(id, "alpha.do")
		b.advance(id, "alpha", "beta", "gamma", "delta")
		b.want(id, saga.Completed, 5)
	})
	t.Run("or not at all", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		tx, err := b.pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		id, err := saga.Begin(ctx, b.engine, tx, begin, "order-1", booking{Trip: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, err := saga.NewReader(b.pool).Get(ctx, id); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("Get() = %v", err)
		}
		b.wantSent(id, "")
	})
	t.Run("the same key and request again is the same saga", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		first, err := begun(b, "order-1", booking{Trip: "x"})
		second, err2 := begun(b, "order-1", booking{Trip: "x"})
		if first != second || errors.Join(err, err2) != nil {
			t.Errorf("begun %s and %s: %v, %v", first, second, err, err2)
		}
		b.want(first, saga.Running, 1)
		b.wantSent(first, "alpha.do")
	})
	t.Run("the same key with another request is a conflict", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		first, _ := begun(b, "order-1", booking{Trip: "x"})
		second, err := begun(b, "order-1", booking{Trip: "y"})
		if !errors.Is(err, saga.ErrKeyConflict) || second != first {
			t.Errorf("Begin() = %s, %v; want %s and a conflict", second, err, first)
		}
		if other, err := begun(b, "order-2", booking{Trip: "y"}); err != nil || other == first {
			t.Errorf("another key: %s, %v", other, err)
		}
	})
	t.Run("transactions that begin it at the same time wait for each other", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		var (
			group     sync.WaitGroup
			conflicts atomic.Int32
		)
		for i := range 6 {
			group.Go(func() {
				request := booking{Trip: "x"}
				if i == 0 {
					request.Trip = "y"
				}
				if _, err := begun(b, "order-1", request); errors.Is(err, saga.ErrKeyConflict) {
					conflicts.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		id := saga.KeyID("trip", "order-1")
		b.want(id, saga.Running, 1)
		b.wantSent(id, "alpha.do")
		if n := conflicts.Load(); n != 1 && n != 5 {
			t.Errorf("%d conflicts, want 1 or 5", n)
		}
	})
	t.Run("what comes as a command is the same saga", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		message, err := saga.BeginMessage("trip", begin, "order-1", booking{Trip: "x"}, dawn)
		if err != nil {
			t.Fatal(err)
		}
		start := startOf(t, message.Event.ID)
		start.Event = message.Event
		b.process(start)
		id, err := begun(b, "order-1", booking{Trip: "x"})
		if err != nil || id != message.Event.ID {
			t.Errorf("Begin() = %s, %v", id, err)
		}
		b.want(id, saga.Running, 1)
	})
	t.Run("what cannot be begun says why", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		if _, err := begun(b, "", booking{}); err == nil || !strings.Contains(err.Error(), "the key is empty") {
			t.Errorf("no key: %v", err)
		}
		err := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
			_, err := saga.Begin(ctx, b.engine, tx, doA, "k", booking{})
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "no definition") {
			t.Errorf("a command that starts nothing: %v", err)
		}
	})
}
