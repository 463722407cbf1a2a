package saga_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countermand/countermand/platform/saga"
)

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
