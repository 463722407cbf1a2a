package consumer_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
)

// hole is a sender of a process that dies before it has published.
type hole struct {
	mu   sync.Mutex
	lost int
}

func (h *hole) Send(messages ...broker.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost += len(messages)
}

// refusing is a broker that refuses the first batches.
type refusing struct {
	broker.Broker
	mu    sync.Mutex
	times int
}

func (r *refusing) PublishBatch(ctx context.Context, messages []broker.Message) []broker.Receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.times == 0 {
		return r.Broker.PublishBatch(ctx, messages)
	}
	r.times--
	receipts := make([]broker.Receipt, len(messages))
	for i := range receipts {
		receipts[i].Err = fmt.Errorf("%w: it refuses", broker.ErrUnavailable)
	}
	return receipts
}

// replyingBy has the rig's commands send their replies from memory.
func (r *rig) replyingBy(replies consumer.Sender) {
	r.t.Helper()
	commands, err := consumer.NewCommands(r.pool, consumer.CommandsConfig{
		Name: name, AttemptsMax: 3, Wake: r.wake, Replies: replies, Logger: r.logger,
	}, r.handlers()...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.commands = commands
}

// dispatcher runs a dispatcher to b.
func (r *rig) dispatcher(b broker.Publisher) *broker.Dispatcher {
	d := broker.NewDispatcher(b, broker.DispatcherConfig{Name: name, Logger: r.logger})
	r.run(d.Run)
	return d
}

func TestRepliesFromMemory(t *testing.T) {
	t.Parallel()
	t.Run("are sent, and again when asked for, and never touch the outbox", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve b", func(context.Context, pgx.Tx, int) error { return events.Reject("out_of_stock", "none") })
		r.exec("alter table outbox add check (false)") // no row can be written
		r.replyingBy(r.dispatcher(r.broker))
		r.feed()
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
		r.send(a, b)
		first := r.wantReply(a, "")
		r.wantReply(b, "out_of_stock")
		r.send(a, b)
		if again := r.wantReply(a, ""); again != first {
			t.Errorf("replies %d and %d", first, again)
		}
		r.wantReply(b, "out_of_stock")
		r.wantEffects("reserve a")
	})
	t.Run("are lost with the process, and the command that comes again gets them", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		dying := &hole{}
		r.replyingBy(dying)
		stop := r.feed()
		e := command(t, reserve, 0, "a")
		r.send(e)
		r.await("the reply that is lost", func() bool { dying.mu.Lock(); defer dying.mu.Unlock(); return dying.lost == 1 })
		stop()
		r.replyingBy(r.dispatcher(r.broker))
		r.feed()
		r.wantSilence(e)
		r.send(e)
		r.wantReply(e, "")
		r.wantCalls("reserve a", 1)
		r.wantEffects("reserve a")
	})
	t.Run("wait for a broker that refuses them, and hold nothing up", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		away := &refusing{Broker: r.broker, times: 1 << 30}
		r.replyingBy(r.dispatcher(away))
		r.feed()
		var all []events.Event
		for n := range 100 {
			all = append(all, command(t, reserve, n%partitions, strconv.Itoa(n)))
		}
		r.send(all...)
		r.await("all to be handled", func() bool { return read[int](r, "select count(*) from effect") == len(all) })
		away.mu.Lock()
		away.times = 1
		away.mu.Unlock()
		for _, e := range all {
			r.wantReply(e, "")
		}
	})
	t.Run("are not sent when the commit fails, and facts go through the outbox", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(ctx context.Context, tx pgx.Tx, call int) error {
			if err := consumer.Emit(ctx, reserved, "a", item{"a"}); err != nil || call > 1 {
				return err
			}
			_, err := tx.Exec(ctx, "insert into note values ($1)", "nowhere") // found out at the commit
			return err
		})
		sent := &hole{}
		r.replyingBy(sent)
		a := command(t, reserve, 0, "a")
		if _, err := r.process(a); err == nil || sent.lost != 0 {
			t.Errorf("error %v, %d replies", err, sent.lost)
		}
		if _, err := r.process(a); err != nil || sent.lost != 1 {
			t.Errorf("error %v, %d replies", err, sent.lost)
		}
		if facts := r.nextFacts(1); facts[0].CausationID != a.ID {
			t.Errorf("fact %+v", facts[0])
		}
	})
}

// A command that is alone in its transaction has no savepoint: what its handler
// has written is taken back with the transaction, and its end is stored all the
// same.
func TestAlone(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		behave behaviour
		code   events.Code
		dead   bool
	}{
		"a rejection after a write":      {func(context.Context, pgx.Tx, int) error { return events.Reject("out_of_stock", "none") }, "out_of_stock", false},
		"a terminal error after a write": {func(context.Context, pgx.Tx, int) error { return consumer.Terminal(errFlaky) }, "", true},
		"an error of a statement, as terminal": {func(ctx context.Context, tx pgx.Tx, _ int) error {
			_, err := tx.Exec(ctx, "select 1 / $1::int", 0)
			return consumer.Terminal(err)
		}, "", true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.on("reserve a", test.behave)
			a := command(t, reserve, 0, "a")
			batch, err := r.process(a)
			if err != nil {
				t.Fatal(err)
			}
			if done, failed := batch.Outcome(); len(done) != 1 || len(failed) != 0 {
				t.Errorf("done %v, failed %v", done, failed)
			}
			if test.dead {
				r.letters(1)
			} else {
				r.wantReply(a, test.code)
			}
			r.wantCalls("reserve a", 1)
			r.wantEffects()
			if n := read[int](r, "select handled from consumer_position"); n != 1 {
				t.Errorf("the position is %d", n)
			}
		})
	}
	t.Run("a handler that leaves a transaction of its own open", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(ctx context.Context, tx pgx.Tx, _ int) error {
			inner, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := inner.Exec(ctx, "insert into stock values ('a')"); err != nil {
				return err
			}
			objects := tx.LargeObjects()
			_, err = objects.Create(ctx, 0)
			return err
		})
		a := command(t, reserve, 0, "a")
		if _, err := r.process(a); err != nil {
			t.Fatal(err)
		}
		r.wantReply(a, "")
		if n := read[int](r, "select count(*) from stock where item = 'a'"); n != 1 {
			t.Error("its write is missing")
		}
	})
}
