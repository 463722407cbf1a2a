package saga_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/saga"
)

// version returns the standard definition as another version of it.
func version(n int) saga.Definition[trip] {
	d := standard()
	d.Version = n
	return d
}

// run runs the feed of an engine with those definitions and returns how to stop it.
func runEngine(t *testing.T, pool *pgxpool.Pool, nats *natsbroker.Broker, definitions ...saga.Compiler) (stop func()) {
	t.Helper()
	return runEngineWith(t, pool, nats, consumer.FeedConfig{BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond}, definitions...)
}

func runEngineWith(t *testing.T, pool *pgxpool.Pool, nats *natsbroker.Broker, config consumer.FeedConfig, definitions ...saga.Compiler) (stop func()) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	e, err := saga.NewEngine(pool, saga.EngineConfig{Logger: quiet}, definitions...)
	if err != nil {
		t.Fatal(err)
	}
	config.Name, config.Topics, config.Logger = saga.ConsumerName, e.Topics(), quiet
	feed, err := consumer.NewFeed(pool, nats, e, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- feed.Run(ctx) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// A new version is rolled out while its sagas run: engines of the old version get
// replies that they cannot take in.
func TestEngineLeavesSagasOfAnotherVersionToOtherEngines(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (pool *pgxpool.Pool, nats *natsbroker.Broker, id string) {
		t.Helper()
		pool, nats, id = database(t, saga.SessionParams()), openBroker(t), ids(1)[0]
		if err := nats.Ensure(t.Context(), begin.Topic(), events.Replies); err != nil {
			t.Fatal(err)
		}
		stop := runEngine(t, pool, nats, version(2))
		send(t, nats, startOf(t, id))
		eventually(t, "it began", func() bool { return count(t, pool, "select count(*) from saga") == 1 })
		stop()
		return pool, nats, id
	}
	t.Run("a reply waits for an engine that has the version", func(t *testing.T) {
		t.Parallel()
		pool, nats, id := setup(t)
		// With the rests that it has in earnest it does not give up in this test's time.
		stop := runEngineWith(t, pool, nats, consumer.FeedConfig{}, version(1))
		mine := ids(1)[0]
		send(t, nats, ok(t, id, "alpha"), startOf(t, mine)) // of another topic, so it does not wait
		eventually(t, "the old engine has work", func() bool { return count(t, pool, "select count(*) from saga where version = 1") == 1 })
		stop()
		if n := count(t, pool, "select count(*) from dead_letter"); n != 0 {
			t.Fatalf("%d dead letters", n)
		}
		runEngine(t, pool, nats, version(1), version(2))
		eventually(t, "the reply is taken in", func() bool {
			return count(t, pool, "select count(*) from saga where id = $1 and revision = 2", id) == 1
		})
	})
	t.Run("and so does a reply that comes before what begins its saga", func(t *testing.T) {
		t.Parallel()
		pool, nats, _ := setup(t)
		runEngine(t, pool, nats, version(1))
		late := ids(1)[0]
		send(t, nats, ok(t, late, "alpha"))
		time.Sleep(5 * time.Millisecond)
		send(t, nats, startOf(t, late))
		eventually(t, "the reply is taken in, or set aside if it was much too early", func() bool {
			return count(t, pool, "select count(*) from saga where id = $1 and revision = 2", late)+
				count(t, pool, "select count(*) from dead_letter where attempts = 10") == 1
		})
	})
	t.Run("but not for ever", func(t *testing.T) {
		t.Parallel()
		pool, nats, id := setup(t)
		runEngine(t, pool, nats, version(1))
		send(t, nats, ok(t, id, "alpha"))
		eventually(t, "it is set aside", func() bool {
			return count(t, pool, "select count(*) from dead_letter where attempts = 10 and error like '%no definition of trip version 2'") == 1
		})
	})
}

func send(t *testing.T, nats *natsbroker.Broker, deliveries ...broker.Delivery) {
	t.Helper()
	for _, d := range deliveries {
		for _, receipt := range nats.PublishBatch(t.Context(), []broker.Message{{Topic: d.Topic, Event: d.Event}}) {
			if receipt.Err != nil {
				t.Fatal(receipt.Err)
			}
		}
	}
}

func count(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// A saga that an engine cannot make sense of stops neither that engine nor the
// sagas beside it.
func TestEngineOutlivesASagaItCannotAdvance(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(b *bench, id string){
		"that began with other steps of the same version": func(b *bench, id string) {
			in, _ := b.stored(id)
			in.Steps[0].Name = "extra"
			b.rewrite(id, in)
		},
		"whose history cannot be read": func(b *bench, id string) {
			b.exec("update saga_log set entry = '{' where saga_id = $1", id)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			all := ids(3)
			strange, sound, behind := all[0], all[1], all[2]
			b.process(starts(t, all...)...)
			spoil(b, strange)
			b.engine = b.another() // with an empty cache
			// The sound one's reply is of another partition.
			reply := ok(t, sound, "alpha")
			reply.Partition = 1
			b.process(ok(t, strange, "extra"), ok(t, behind, "alpha"), reply)
			if !b.batch.Skip(0) || b.batch.Skip(2) {
				t.Errorf("failed: %v and %v, want the strange one's to wait", b.batch.Skip(0), b.batch.Skip(2))
			}
			b.want(sound, saga.Running, 2)
			b.want(behind, saga.Running, 1)
			if n := one[int](b, "select count(*) from dead_letter"); n != 0 {
				t.Errorf("%d dead letters", n)
			}
			b.exec("update saga_live set due_at = clock_timestamp() - interval '1 s'")
			b.runTimers(b.engine)
			for _, id := range all {
				eventually(t, "the timer is set anew", func() bool {
					at, isSet := b.due(id)
					return isSet && at.After(time.Now())
				})
			}
			if _, revision := b.revision(strange); revision != 1 {
				t.Errorf("the strange one is at revision %d", revision)
			}
		})
	}
}

// What a batch was decided to be before another engine turned out to be faster
// must not count when it is decided anew.
func TestEngineForgetsADecisionThatLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	b.process(startOf(t, id)) // the engine has it in memory
	b.exec("update saga_log set entry = '{' where saga_id = $1", id)
	b.exec("update saga set revision = revision + 1 where id = $1", id)
	b.process(ok(t, id, "alpha"))
	if !b.batch.Skip(0) {
		t.Error("the reply was handled")
	}
	if n := one[int](b, "select count(*) from consumer_position where handled > 0"); n != 0 {
		t.Error("the position has moved over a reply that was not handled")
	}
}

// revision reads the revision of a saga whose history may be unreadable.
func (b *bench) revision(id string) (status string, revision int64) {
	b.t.Helper()
	if err := b.pool.QueryRow(b.t.Context(), "select status, revision from saga where id = $1", id).Scan(&status, &revision); err != nil {
		b.t.Fatal(err)
	}
	return status, revision
}

func TestManyTimersOfAnotherVersionHoldUpNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.try(t.Context(), b.another(version(2)), starts(t, ids(300)...)...); err != nil { // more than one transaction takes
		t.Fatal(err)
	}
	b.exec("update saga_live set due_at = clock_timestamp() - interval '1 h'")
	mine := ids(1)[0]
	b.process(startOf(t, mine))
	b.exec("update saga_live set due_at = clock_timestamp() where saga_id = $1", mine)
	b.runTimers(b.engine)
	eventually(t, "its own timer fires", func() bool {
		at, isSet := b.due(mine)
		return isSet && at.After(time.Now())
	})
}

func TestEngineRefusesCodesThatAreNone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	b.process(startOf(t, id))
	for _, code := range []string{"", strings.Repeat("x", 101)} {
		b.process(replyTo(t, id, "alpha", nil, &events.Rejection{Code: events.Code(code)}))
	}
	b.want(id, saga.Running, 1)
	if n := one[int](b, "select count(*) from dead_letter where error like '%no readable code'"); n != 2 {
		t.Errorf("%d dead letters", n)
	}
	b.process(replyTo(t, id, "alpha", nil, &events.Rejection{Code: "full", Message: strings.Repeat("x", 1<<19)}))
	b.want(id, saga.Compensated, 2)
}
