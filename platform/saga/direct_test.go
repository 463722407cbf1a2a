package saga_test

import (
	"strings"
	"testing"

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
