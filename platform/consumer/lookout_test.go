package consumer_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/share"
)

// deafening is a broker whose readers go deaf: those that are open when it is told
// to deliver nothing any more, and say nothing.
type deafening struct {
	broker.Broker
	opened, deaf atomic.Int64 // readers; those up to deaf deliver nothing
}

func (d *deafening) Read(ctx context.Context, topic events.Topic, from map[int]broker.Start) (broker.Reader, error) {
	reader, err := d.Broker.Read(ctx, topic, from)
	return &deaf{reader, d, d.opened.Add(1)}, err
}

type deaf struct {
	broker.Reader
	of     *deafening
	number int64
}

func (r *deaf) Next(ctx context.Context, limit int) ([]broker.Delivery, error) {
	batch, err := r.Reader.Next(ctx, limit)
	if r.number <= r.of.deaf.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return batch, err
}

// A feed whose readers deliver nothing, though messages wait, makes them anew.
func TestStuckReadersAreMadeAnew(t *testing.T) {
	t.Parallel()
	r := setup(t)
	deafening := &deafening{Broker: r.broker}
	r.broker = deafening
	registry := prometheus.NewRegistry()
	r.feedWith(r.pool, consumer.FeedConfig{Look: 20 * time.Millisecond, Metrics: registry})
	a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
	r.send(a)
	r.wantReply(a, "")
	deafening.deaf.Store(deafening.opened.Load())
	r.send(b)
	r.wantReply(b, "")
	r.wantEffects("reserve a", "reserve b")
	// Two looks are 40 ms, which new readers need as well on a busy machine.
	if rebuilt := figures(t, registry)("countermand_consumer_rebuilt_total"); rebuilt < 1 {
		t.Errorf("readers were made anew %v times", rebuilt)
	}
}

// figures returns what reads the sum of a counter or gauge over its labels.
func figures(t *testing.T, registry prometheus.Gatherer) func(metric string) float64 {
	return func(metric string) (sum float64) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetName() == metric {
				for _, m := range family.GetMetric() {
					sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		return sum
	}
}

// A handler that takes long holds up its feed and is let be; meanwhile the feed
// tells how far it is behind.
func TestAFeedThatIsBehindIsNotStuck(t *testing.T) {
	t.Parallel()
	r := setup(t)
	began, release := make(chan struct{}), make(chan struct{})
	r.on("reserve a", func(context.Context, pgx.Tx, int) error {
		began <- struct{}{}
		<-release
		return nil
	})
	registry := prometheus.NewRegistry()
	r.feedWith(r.pool, consumer.FeedConfig{BatchMax: 1, Look: 10 * time.Millisecond, Metrics: registry})
	all := []events.Event{command(t, reserve, 0, "a"), command(t, reserve, 0, "b"), command(t, reserve, 0, "c")}
	r.send(all...)
	figure := figures(t, registry)
	<-began
	r.await("a lag of three", func() bool { return figure("countermand_consumer_lag") == 3 })
	before := figure("countermand_consumer_rebuilt_total") // readers take longer than two looks to begin on a busy machine
	time.Sleep(100 * time.Millisecond)                     // ten looks
	if age := figure("countermand_consumer_oldest_seconds"); age < 0.1 {
		t.Errorf("the oldest is %.3f s old", age)
	}
	if n := figure("countermand_consumer_rebuilt_total") - before; n != 0 {
		t.Errorf("its readers were made anew %.0f times", n)
	}
	close(release)
	for _, e := range all {
		r.wantReply(e, "")
	}
	r.await("no lag", func() bool {
		return figure("countermand_consumer_lag") == 0 && figure("countermand_consumer_oldest_seconds") == 0
	})
}

// A feed that holds no partition any more is behind with nothing: who holds them now
// tells of them.
func TestAFeedWithoutPartitionsHasNoLag(t *testing.T) {
	t.Parallel()
	r := setup(t)
	release := make(chan struct{})
	r.on("reserve a", func(context.Context, pgx.Tx, int) error {
		<-release
		return errors.New("not yet")
	})
	registry := prometheus.NewRegistry()
	r.feedWith(r.pool, consumer.FeedConfig{Look: 10 * time.Millisecond, Metrics: registry})
	r.send(command(t, reserve, 0, "a"))
	figure := figures(t, registry)
	r.await("a lag of one", func() bool { return figure("countermand_consumer_lag") == 1 })
	conn, err := share.Connect(t.Context(), r.pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	other, err := share.Join(t.Context(), conn, "consumer/"+name, partitions)
	if err != nil {
		t.Fatal(err)
	}
	r.await("all partitions for another process", func() bool {
		_, err := r.pool.Exec(t.Context(), `
			select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
			where l.locktype = 'advisory' and l.pid <> $1 and d.datname = current_database()`, conn.PgConn().PID())
		if err == nil {
			_, err = other.Take(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(other.Held()) == partitions
	})
	close(release)
	r.await("no lag", func() bool { return figure("countermand_consumer_lag") == 0 })
}

// Each worker knows the keys of its own partitions only.
func TestParkedKeysOfAllWorkersAreCounted(t *testing.T) {
	t.Parallel()
	r := setup(t)
	refused := func(context.Context, pgx.Tx, int) error { return consumer.Terminal(errors.New("no")) }
	r.on("reserve a", refused)
	r.on("reserve b", refused)
	registry := prometheus.NewRegistry()
	r.feedWith(r.pool, consumer.FeedConfig{Workers: 2, ParkKeys: true, Metrics: registry})
	r.send(command(t, reserve, 0, "a"), command(t, reserve, 1, "b"))
	figure := figures(t, registry)
	r.await("two parked keys", func() bool { return figure("countermand_consumer_parked_keys") == 2 })
}
