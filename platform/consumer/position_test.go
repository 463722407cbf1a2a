package consumer_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
)

func TestPositions(t *testing.T) {
	t.Parallel()
	t.Run("a restart goes on where it was, without a handler running again", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		stop := r.feed()
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
		r.send(a)
		r.wantReply(a, "")
		stop()
		r.exec("delete from inbox") // so that only the position can know
		r.send(b)
		r.feed()
		r.wantReply(b, "")
		r.wantSilence(a)
		r.wantEffects("reserve a", "reserve b")
	})
	t.Run("a position that somebody else moved lets nothing be applied", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		// The first call moves the position behind its own transaction's back.
		r.on("reserve a", func(ctx context.Context, _ pgx.Tx, call int) error {
			if call == 1 {
				_, err := r.pool.Exec(ctx, "update consumer_position set handled = 1 where handled = 0")
				return err
			}
			return nil
		})
		stop := r.feed()
		a := command(t, reserve, 0, "a")
		r.send(a)
		r.pass(0)
		r.wantEffects()
		r.wantSilence(a)
		if n := read[int](r, "select count(*) from inbox where status = 'replied'"); n != 2 { // two passes
			t.Errorf("%d inbox entries", n)
		}
		stop()
	})
	t.Run("nor does one of several", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve b", func(ctx context.Context, _ pgx.Tx, _ int) error {
			_, err := r.pool.Exec(ctx, "update consumer_position set handled = 7 where partition = 1")
			return err
		})
		_, err := r.process(command(t, reserve, 0, "a"), command(t, reserve, 1, "b"), command(t, reserve, 2, "c"))
		if !consumer.IsFenced(err) {
			t.Errorf("error = %v, want one of a position that was moved", err)
		}
		r.wantEffects()
		if n := read[int](r, "select count(*) from inbox"); n != 0 {
			t.Errorf("%d inbox entries", n)
		}
		if got := read[string](r, "select string_agg(handled::text, ' ' order by partition) from consumer_position"); got != "0 7 0" {
			t.Errorf("the positions are %s", got)
		}
	})
	t.Run("a topic made anew is read from its start, and effects stay single", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
		fatal := command(t, reserve, 0, "fatal")
		r.on("reserve fatal", func(context.Context, pgx.Tx, int) error { return consumer.Terminal(errFlaky) })
		r.send(fatal, a)
		r.wantReply(a, "")
		if err := r.remove(); err != nil {
			t.Fatal(err)
		}
		if err := r.broker.Ensure(t.Context(), reserve.Topic()); err != nil {
			t.Fatal(err)
		}
		other := command(t, reserve, 0, "other fatal")
		r.on("reserve other fatal", func(context.Context, pgx.Tx, int) error { return consumer.Terminal(errFlaky) })
		r.send(other, a, b) // other lies where fatal lay
		r.wantReply(a, "")
		r.wantReply(b, "")
		r.wantEffects("reserve a", "reserve b")
		r.letters(2)
	})
}

// processPool is another process's pool on the rig's database, told apart by its
// application name.
func (r *rig) processPool(application string) *pgxpool.Pool {
	r.t.Helper()
	pool, err := postgres.Open(r.t.Context(), postgres.Config{URL: r.pool.Config().ConnString(), ApplicationName: application})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	stream := func(t *testing.T, count int) []events.Event {
		t.Helper()
		all := make([]events.Event, count)
		for n := range all {
			all[n] = command(t, reserve, n%partitions, fmt.Sprintf("%d/%04d", n%partitions, n))
		}
		return all
	}
	inOrder := func(t *testing.T, r *rig, count int) {
		t.Helper()
		r.await(fmt.Sprint(count, " effects"), func() bool { return read[int](r, "select count(*) from effect where item <> 'pass'") >= count })
		rows, _ := r.pool.Query(t.Context(), "select item from effect where item <> 'pass' order by id")
		items, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(items) != count {
			t.Fatalf("%d effects, want %d; %v", len(items), count, err)
		}
		last := make(map[string]string)
		for _, item := range items {
			if item <= last[item[:1]] {
				t.Errorf("%s comes after %s", item, last[item[:1]])
			}
			last[item[:1]] = item
		}
	}
	held := func(r *rig, application string) int {
		return read[int](r, `select count(*) from pg_locks join pg_stat_activity using (pid)
			where locktype = 'advisory' and application_name = $1`, application)
	}

	for what, leave := range map[string]func(*rig, func()){
		"stops": func(_ *rig, stop func()) { stop() },
		"loses its connections": func(r *rig, _ func()) {
			r.exec("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'first'")
		},
	} {
		t.Run("two feeds share the partitions; when one "+what+" order holds and nothing is lost", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			first, second := r.processPool("first"), r.processPool("second")
			stop := r.feedWith(first, consumer.FeedConfig{BatchMax: 3})
			r.feedWith(second, consumer.FeedConfig{BatchMax: 3})
			r.await("a fair division", func() bool { return held(r, "first") == 3 && held(r, "second") == 3 }) // and one as a member
			all := stream(t, 400)
			r.send(all[:200]...)
			leave(r, stop)
			r.send(all[200:]...)
			inOrder(t, r, 400)
		})
	}
	t.Run("a feed that stops finishes the batch in hand", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		entered, leave := make(chan struct{}), make(chan struct{})
		r.on("reserve a", func(context.Context, pgx.Tx, int) error {
			close(entered)
			<-leave
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		feed, err := consumer.NewFeed(r.pool, r.broker, r.commands, consumer.FeedConfig{Name: name, Topics: r.commands.Topics(), Logger: r.logger})
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() {
			if err := feed.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		a := command(t, reserve, 0, "a")
		r.send(a)
		<-entered
		cancel()
		close(leave)
		running.Wait()
		r.wantEffects("reserve a")
		r.wantReply(a, "")
	})
	t.Run("workers divide the partitions and keep their order", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feedWith(r.pool, consumer.FeedConfig{Workers: 3, BatchMax: 5})
		all := stream(t, 200)
		r.send(all...)
		inOrder(t, r, 200)
	})
}

// The worker's backend is killed at each point where it matters. Whatever was
// committed, every command has one effect and a reply.
func TestKilledBackend(t *testing.T) {
	t.Parallel()
	t.Run("in the handler", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(ctx context.Context, tx pgx.Tx, call int) error {
			if call > 2 {
				return nil
			}
			_, err := tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
			return err
		})
		r.feed()
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
		r.send(a, b)
		r.wantReply(a, "")
		r.wantReply(b, "")
		r.wantEffects("reserve a", "reserve b")
	})
	t.Run("while it commits", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		// A deferred trigger keeps the commit busy until the test has killed it.
		r.exec(`create table slow (id int);
			create function dawdle() returns trigger language plpgsql as 'begin perform pg_sleep(60); return null; end';
			create constraint trigger dawdle after insert on slow deferrable initially deferred for each row execute function dawdle()`)
		r.on("reserve a", func(ctx context.Context, tx pgx.Tx, call int) error {
			if call > 1 {
				return nil
			}
			_, err := tx.Exec(ctx, "insert into slow values ($1)", call)
			return err
		})
		r.feed()
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
		r.send(a, b)
		r.await("the commit", func() bool {
			return read[int](r, `select count(pg_terminate_backend(pid)) from pg_stat_activity
				where datname = current_database() and wait_event = 'PgSleep'`) > 0
		})
		r.wantReply(a, "")
		r.wantReply(b, "")
		r.wantEffects("reserve a", "reserve b")
	})
	t.Run("all of them, again and again", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		worker := r.processPool("worker")
		r.commands = r.processorOn(worker, r.wake, 1000)
		r.feedWith(worker, consumer.FeedConfig{BatchMax: 7})
		const count = 120
		all := make([]events.Event, count)
		for n := range all {
			all[n] = command(t, reserve, n%partitions, fmt.Sprintf("%04d", n))
		}
		var killing sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		killing.Go(func() {
			for ticker := time.NewTicker(30 * time.Millisecond); ; {
				select {
				case <-ctx.Done():
					ticker.Stop()
					return
				case <-ticker.C:
				}
				_, _ = r.pool.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'worker' and state <> 'idle'")
			}
		})
		for n := 0; n < count; n += 10 {
			r.send(all[n : n+10]...)
			r.await("progress", func() bool { return read[int](r, "select count(*) from effect") >= n/2 })
		}
		for _, e := range all {
			r.wantReply(e, "")
		}
		cancel()
		killing.Wait()
		if n := read[int](r, "select count(*) from effect"); n != count {
			t.Errorf("%d effects of %d commands", n, count)
		}
		if n := read[int](r, "select count(distinct item) from effect"); n != count {
			t.Errorf("%d different effects of %d commands", n, count)
		}
	})
}
