package saga_test

import (
	"sync"
	"testing"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/saga"
)

// Two engines on one database, of which the first one remembers a saga as it was
// before the second one moved it. That happens when partitions change hands, and
// when another engine fires a saga's timer.
func TestEngineWithAStaleCache(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (b *bench, second *saga.Engine, id string) {
		b, id = newBench(t), ids(1)[0]
		b.process(startOf(t, id))
		return b, b.another(), id
	}
	by := func(b *bench, e *saga.Engine, deliveries ...broker.Delivery) {
		b.t.Helper()
		if err := b.try(b.t.Context(), e, deliveries...); err != nil {
			b.t.Fatal(err)
		}
	}
	t.Run("decides anew over a reply that the other one has applied", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		by(b, second, ok(t, id, "alpha"))
		b.process(ok(t, id, "alpha"))
		b.want(id, saga.Running, 2)
		b.wantSent(id, "alpha.do beta.do")
	})
	t.Run("takes a reply that its memory does not await", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		by(b, second, ok(t, id, "alpha"))
		b.process(ok(t, id, "beta"))
		b.want(id, saga.Running, 3)
		b.wantSent(id, "alpha.do beta.do gamma.do")
	})
	t.Run("takes such a reply amid others", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		mine, fresh := ids(1)[0], ids(1)[0]
		b.process(startOf(t, mine))
		by(b, second, ok(t, id, "alpha"))
		b.process(ok(t, mine, "alpha"), ok(t, id, "beta"), ok(t, mine, "alpha"), startOf(t, fresh), ok(t, fresh, "alpha"))
		b.want(id, saga.Running, 3)
		b.want(mine, saga.Running, 2)
		b.want(fresh, saga.Running, 2)
		b.wantSent(mine, "alpha.do beta.do")
		b.wantSent(fresh, "alpha.do beta.do")
	})
	t.Run("ignores a reply to a saga that has ended", func(t *testing.T) {
		t.Parallel()
		b, second, id := setup(t)
		for _, step := range []string{"alpha", "beta", "gamma", "delta"} {
			by(b, second, ok(t, id, step))
		}
		b.process(ok(t, id, "alpha"), ok(t, id, "delta"))
		b.want(id, saga.Completed, 5)
		b.wantSent(id, "alpha.do beta.do gamma.do delta.do trip.completed")
	})
	t.Run("ignores a copy of a reply that it has applied itself", func(t *testing.T) {
		t.Parallel()
		b, _, id := setup(t)
		b.process(ok(t, id, "alpha"))
		b.process(ok(t, id, "alpha"))
		b.want(id, saga.Running, 2)
	})
	t.Run("ignores a start that the other one has taken", func(t *testing.T) {
		t.Parallel()
		b, second, _ := setup(t)
		twice := ids(1)[0]
		by(b, second, startOf(t, twice))
		b.process(startOf(t, twice), ok(t, twice, "alpha"))
		b.want(twice, saga.Running, 2)
		b.wantSent(twice, "alpha.do beta.do")
	})
}

// Engines that get the same events at the same time apply each once. Each has
// positions of its own here, so that nothing but the revisions keeps them apart.
func TestEnginesRace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	type racer struct {
		engine *saga.Engine
		batch  *consumer.Batch
	}
	racers := []racer{{b.engine, b.batch}}
	for _, name := range []string{"second", "third"} {
		racers = append(racers, racer{b.another(), capture(t, b.pool, name)})
	}
	started := ids(20)
	for _, step := range []string{"", "alpha", "beta", "gamma", "delta"} {
		var group sync.WaitGroup
		for n, r := range racers {
			r.batch.Deliveries = nil
			for i := range started {
				id := started[(i+7*n)%len(started)] // each in an order of its own
				if step == "" {
					r.batch.Deliveries = append(r.batch.Deliveries, startOf(t, id))
				} else {
					r.batch.Deliveries = append(r.batch.Deliveries, ok(t, id, step))
				}
			}
			group.Go(func() {
				if err := r.engine.Process(t.Context(), r.batch); err != nil {
					t.Errorf("%s: %v", step, err)
				}
			})
		}
		group.Wait()
	}
	for _, id := range started {
		b.want(id, saga.Completed, 5)
		b.wantSent(id, "alpha.do beta.do gamma.do delta.do trip.completed")
	}
}
