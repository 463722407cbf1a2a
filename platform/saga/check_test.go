package saga_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/saga"
)

// With a check, what breaks its contract is set aside before its saga sees it: the
// saga goes on waiting, and what is around it is taken in.
func TestEngineSetsAsideWhatBreaksItsContract(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var err error
	b.engine, err = saga.NewEngine(b.pool, saga.EngineConfig{
		Logger: slog.New(slog.NewTextHandler(b.logs, nil)),
		Check: func(e *events.Event) error {
			if bytes.Contains(e.Data, []byte("broken")) {
				return errors.New("payload breaks its contract")
			}
			return nil
		},
	}, standard())
	if err != nil {
		t.Fatal(err)
	}
	id, other := ids(1)[0], ids(1)[0]
	b.process(startOf(t, id))
	bad := startOf(t, ids(1)[0])
	bad.Event.Data = []byte(`{"broken":true}`)
	b.process(replyTo(t, id, "alpha", []byte(`{"broken":true}`), nil), bad, startOf(t, other))
	b.want(id, saga.Running, 1)
	b.want(other, saga.Running, 1)
	if n := one[int](b, "select count(*) from saga"); n != 2 {
		t.Errorf("%d sagas, want 2", n)
	}
	if n := one[int](b, "select count(*) from dead_letter where reason = $1 and attempts = 1 and state = 'dead'", consumer.ReasonInvalid); n != 2 {
		t.Errorf("%d dead letters of the reason invalid, want 2", n)
	}
	b.process(ok(t, id, "alpha")) // which the participant answers when it is asked again
	b.want(id, saga.Running, 2)
}
