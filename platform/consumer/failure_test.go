package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
)

func TestFailure(t *testing.T) {
	t.Parallel()
	t.Run("a delivery that fails is tried again in order while other partitions go on", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		healed := make(chan struct{})
		r.on("reserve a", func(context.Context, pgx.Tx, int) error {
			select {
			case <-healed:
				return nil
			default:
				return errFlaky
			}
		})
		r.commands = r.processor(r.wake, 1000)
		// More waits behind the failure than a worker takes in while it has work.
		r.feedWith(r.pool, consumer.FeedConfig{BatchMax: 2})
		r.send(command(t, reserve, 0, "a"))
		r.await("the first failure", func() bool { return r.called("reserve a") > 0 })
		want := []string{"reserve a"}
		var behind []events.Event
		for n := range 20 {
			behind = append(behind, command(t, reserve, 0, fmt.Sprint("behind ", n)))
			want = append(want, fmt.Sprint("reserve behind ", n))
		}
		r.send(behind...)
		r.pass(1)
		r.wantEffects()
		close(healed)
		r.pass(0)
		r.wantEffects(want...)
	})
	t.Run("after the last attempt it is a dead letter with its story, and the partition goes on", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(_ context.Context, _ pgx.Tx, call int) error { return fmt.Errorf("cause %d", call) })
		r.feed()
		b := command(t, reserve, 0, "b")
		r.send(command(t, reserve, 0, "a"), b)
		r.wantReply(b, "")
		if got := r.letters(1)[0]; got != (letter{reserve.Type(), "cause 3", 3}) {
			t.Errorf("dead letter %+v", got)
		}
		r.wantCalls("reserve a", 3)
		r.wantEffects("reserve b")
	})
	t.Run("a terminal error is not tried again", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(context.Context, pgx.Tx, int) error {
			return fmt.Errorf("wrapped: %w", consumer.Terminal(errFlaky))
		})
		r.feed()
		b := command(t, reserve, 0, "b")
		r.send(command(t, reserve, 0, "a"), b)
		r.wantReply(b, "")
		if got := r.letters(1)[0]; got.Attempts != 1 || got.Error != "wrapped: flaky" {
			t.Errorf("dead letter %+v", got)
		}
		r.wantEffects("reserve b")
	})
	t.Run("a panic is an error, even in the middle of reading rows", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(context.Context, pgx.Tx, int) error { panic("ouch") })
		r.on("reserve b", func(ctx context.Context, tx pgx.Tx, call int) error {
			rows, err := tx.Query(ctx, "select generate_series(1, $1::int)", 100_000)
			if err != nil {
				return err
			}
			rows.Next()
			if call < 3 {
				panic("in the middle")
			}
			rows.Close()
			return nil
		})
		r.feed()
		b, c := command(t, reserve, 0, "b"), command(t, reserve, 0, "c")
		r.send(command(t, reserve, 0, "a"), b, c)
		r.wantReply(b, "")
		r.wantReply(c, "")
		if got := r.letters(1)[0]; got.Attempts != 3 || !strings.Contains(got.Error, "ouch") {
			t.Errorf("dead letter %+v", got)
		}
		r.wantEffects("reserve b", "reserve c")
	})
	t.Run("what nobody can handle is a dead letter at once", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.feed()
		unknown := command(t, reserve, 0, "a")
		unknown.Type = "test.stock.paint.v1"
		empty := command(t, reserve, 0, "a")
		empty.Data = nil
		r.send(unknown, empty)
		r.pass(0)
		if err := r.publishRaw(0, []byte{0, 0xff}); err != nil {
			t.Fatal(err)
		}
		r.pass(0)
		got := r.letters(3)
		if !strings.Contains(got[0].Error, "no handler") || !strings.Contains(got[1].Error, "no data") || got[2].Error == "" {
			t.Errorf("dead letters %+v", got)
		}
	})
	t.Run("an error that Postgres cannot store as text does not hold up the partition", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(context.Context, pgx.Tx, int) error {
			return consumer.Terminal(errors.New("raw bytes \x00\xff"))
		})
		r.feed()
		r.send(command(t, reserve, 0, "a"))
		r.pass(0)
		if got := r.letters(1)[0]; got.Error != "raw bytes \uFFFD\uFFFD" {
			t.Errorf("dead letter %q", got.Error)
		}
	})
	t.Run("a handler that outlasts the batch's timeout becomes a dead letter too", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(ctx context.Context, _ pgx.Tx, _ int) error {
			<-ctx.Done()
			return ctx.Err()
		})
		r.feedWith(r.pool, consumer.FeedConfig{ProcessTimeout: 300 * time.Millisecond})
		r.send(command(t, reserve, 0, "a"), command(t, reserve, 0, "b"))
		r.pass(1)
		r.pass(0)
		if got := r.letters(1)[0]; got.Attempts != 3 {
			t.Errorf("dead letter %+v", got)
		}
		r.wantEffects("reserve b")
	})
}

// A batch is one transaction: what one delivery does to it must not be felt by
// the others.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	fails := func(behave behaviour) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.on("reserve b", behave)
			a, b, c, behind := command(t, reserve, 0, "a"), command(t, reserve, 1, "b"), command(t, reserve, 2, "c"), command(t, reserve, 1, "d")
			batch, err := r.process(a, b, c, behind)
			if err != nil {
				t.Fatal(err)
			}
			done, failed := batch.Outcome()
			if len(done) != 2 || len(failed) != 1 || failed[consumer.Source{Topic: reserve.Topic(), Partition: 1}] == nil {
				t.Errorf("done %v, failed %v", done, failed)
			}
			r.wantReply(a, "")
			r.wantReply(c, "")
			r.wantEffects("reserve a", "reserve c")
			r.wantCalls("reserve d", 0)
		}
	}
	t.Run("an error leaves them alone", fails(func(context.Context, pgx.Tx, int) error { return errFlaky }))
	t.Run("a panic leaves them alone", fails(func(context.Context, pgx.Tx, int) error { panic("ouch") }))
	t.Run("an SQL error leaves them alone", fails(func(ctx context.Context, tx pgx.Tx, _ int) error {
		_, err := tx.Exec(ctx, "select 1 / $1::int", 0)
		return err
	}))
	for what, end := range map[string]error{"and succeeds": nil, "and defers its reply": consumer.ErrDeferred} {
		t.Run("an SQL error that the handler passes over, "+what+", leaves them alone", fails(func(ctx context.Context, tx pgx.Tx, _ int) error {
			_, _ = tx.Exec(ctx, "select 1 / $1::int", 0)
			return end
		}))
	}
	t.Run("a statement that times out leaves them alone", fails(func(ctx context.Context, tx pgx.Tx, _ int) error {
		if _, err := tx.Exec(ctx, "set local statement_timeout = 20"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "select pg_sleep(10)")
		return err
	}))

	// Each of these spoils the transaction itself. The batch fails as a whole and
	// is split; none may pass with only a part of the effects.
	for what, behave := range map[string]behaviour{
		"a constraint that fails at the commit": func(ctx context.Context, tx pgx.Tx, _ int) error {
			_, err := tx.Exec(ctx, "insert into note values ($1)", "nowhere")
			return err
		},
		"a connection that is lost": func(ctx context.Context, tx pgx.Tx, _ int) error {
			_, err := tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
			return err
		},
	} {
		t.Run(what+" fails the batch, then only the one to blame", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.on("reserve b", behave)
			if _, err := r.process(command(t, reserve, 0, "a"), command(t, reserve, 1, "b"), command(t, reserve, 2, "c")); err == nil {
				t.Error("the batch was handled")
			}
			r.wantEffects()
			if n := read[int](r, "select count(*) from inbox"); n != 0 {
				t.Errorf("%d inbox entries", n)
			}
			a, b, c := command(t, reserve, 0, "a"), command(t, reserve, 0, "b"), command(t, reserve, 2, "c")
			r.exec("delete from consumer_position")
			r.commands = r.processor(r.wake, 1) // whoever is blamed in error is lost
			r.feedTogether(a, b, c)
			r.wantReply(a, "")
			r.wantReply(c, "")
			r.pass(0)
			r.wantSilence(b)
			if got := r.letters(1)[0]; got.Attempts != 1 {
				t.Errorf("dead letter %+v", got)
			}
			rows, _ := r.pool.Query(t.Context(), "select verb || ' ' || item from effect where item <> 'pass' order by item")
			got, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil || !slices.Equal(got, []string{"reserve a", "reserve c"}) {
				t.Errorf("effects %q, %v", got, err)
			}
		})
	}
	t.Run("what is behind the one to blame waits for its retry", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve b", func(ctx context.Context, tx pgx.Tx, call int) error {
			if call > 2 { // with the others, and alone
				return nil
			}
			_, err := tx.Exec(ctx, "insert into note values ($1)", "nowhere")
			return err
		})
		behind := command(t, reserve, 1, "d")
		r.feedTogether(command(t, reserve, 0, "a"), command(t, reserve, 1, "b"), behind, command(t, reserve, 2, "c"))
		r.wantReply(behind, "")
		if got := read[string](r, "select string_agg(item, ' ' order by id) from effect where item in ('b', 'd')"); got != "b d" {
			t.Errorf("effects %q, want b before d", got)
		}
	})
}

// feedTogether lets a feed have these commands in one batch, as a rule: they arrive while it is
// busy with others.
func (r *rig) feedTogether(all ...events.Event) {
	r.t.Helper()
	r.on("reserve pass", func(context.Context, pgx.Tx, int) error {
		time.Sleep(20 * time.Millisecond)
		return nil
	})
	r.send(slices.Concat([]events.Event{command(r.t, reserve, 3, "pass"), command(r.t, reserve, 3, "pass")}, all)...)
	r.feed()
}
