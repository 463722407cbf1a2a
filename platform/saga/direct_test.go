package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/saga"
)

// wire takes what an engine sends from memory.
type wire struct{ sent []string }

func (w *wire) Send(messages ...broker.Message) {
	for _, m := range messages {
		w.sent = append(w.sent, strings.TrimSuffix(strings.TrimPrefix(m.Event.Type, "test."), ".v1"))
	}
}

func TestCommandsFromMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w := &wire{}
	engine, err := saga.NewEngine(b.pool, saga.EngineConfig{Commands: w}, standard())
	if err != nil {
		t.Fatal(err)
	}
	b.engine = engine
	id := ids(1)[0]

	b.exec("alter table saga add constraint never check (false) not valid")
	if err := b.try(t.Context(), b.engine, startOf(t, id)); err == nil || len(w.sent) > 0 {
		t.Errorf("error %v, sent %q before the commit", err, w.sent)
	}
	b.exec("alter table saga drop constraint never")

	b.process(startOf(t, id))
	b.advance(id, "alpha", "beta", "gamma", "delta")
	b.want(id, saga.Completed, 5)
	if got := strings.Join(w.sent, " "); got != "alpha.do beta.do gamma.do delta.do" {
		t.Errorf("sent %q from memory", got)
	}
	if found, _ := b.outcomes(id); len(found) != 1 || len(b.outbox()) != 1 {
		t.Errorf("the outbox holds %q, want the outcome alone", b.sent(id))
	}
}

func TestOrdersTellWhatGoesOutFromMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	engine, err := saga.NewEngine(b.pool, saga.EngineConfig{Commands: &wire{}}, standard())
	if err != nil {
		t.Fatal(err)
	}
	b.engine = engine
	id := ids(1)[0]
	b.process(startOf(t, id))
	told, err := engine.Order(t.Context(), id, saga.Order{Verb: saga.Compensate, By: "ada", Reason: "test"}, saga.Condition{DryRun: true})
	if err != nil || len(told.Sends) != 1 || told.Sends[0].Step != "alpha" || !told.Sends[0].Undo {
		t.Errorf("it would send %+v (error %v)", told.Sends, err)
	}
}

// What a saga sends that begins in somebody's transaction must not be sent before
// that has committed, which only its owner knows.
func TestASagaBegunInATransactionUsesTheOutbox(t *testing.T) {
	t.Parallel()
	d := guarded(saga.Lock[trip]{})
	d.Flow = saga.Sequence[trip]{alpha(), saga.Lock[trip]{Name: "turn", Timeout: time.Minute, Key: func(trip) string { return "k" }}}
	locked := define()
	locked.Flow, locked.Version = saga.Sequence[trip]{saga.Lock[trip]{Name: "turn", Timeout: time.Minute, Key: func(trip) string { return "k" }}, alpha()}, 2
	for what, test := range map[string]struct {
		definition saga.Definition[trip]
		rows       string
	}{
		"a command": {d, "select count(*) from outbox"},
		"a lock":    {locked, "select count(*) from saga_lock"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, test.definition)
			w := &wire{}
			engine, err := saga.NewEngine(b.pool, saga.EngineConfig{Commands: w}, test.definition)
			if err != nil {
				t.Fatal(err)
			}
			err = pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
				_, err := saga.Begin(t.Context(), engine, tx, begin, "key", booking{})
				return err
			})
			if n := one[int](b, test.rows); err != nil || n != 1 || len(w.sent) > 0 {
				t.Errorf("%d rows, sent %q (error %v)", n, w.sent, err)
			}
		})
	}
}
