package saga_test

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// sender keeps what goes out from memory.
type sender struct {
	mu   sync.Mutex
	sent []string
}

func (s *sender) Send(messages ...broker.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range messages {
		s.sent = append(s.sent, messages[i].Event.Type)
	}
}

// An engine that sends commands from memory tells of them all the same, and one
// that begins a saga in somebody's transaction does not send before its commit.
func TestOrdersWhoseCommandsGoOutFromMemory(t *testing.T) {
	t.Parallel()
	b, s := newBench(t), &sender{}
	engine, err := saga.NewEngine(b.pool, saga.EngineConfig{Commands: s, Logger: slog.New(slog.DiscardHandler)}, standard())
	if err != nil {
		t.Fatal(err)
	}
	var id string
	err = postgres.InTx(t.Context(), b.pool, func(tx pgx.Tx) (err error) {
		id, err = saga.Begin(t.Context(), engine, tx, begin, "k", booking{})
		return err
	})
	if err != nil || len(s.sent) != 0 {
		t.Fatalf("sent %q, %v", s.sent, err)
	}
	b.wantSent(id, "alpha.do")
	dry, err := engine.Order(t.Context(), id, by(saga.RetryNow), saga.Condition{DryRun: true})
	if err != nil || len(dry.Sends) != 1 || len(s.sent) != 0 {
		t.Errorf("the dry run tells %+v, %v, and sent %q", dry.Sends, err, s.sent)
	}
	told, err := engine.Order(t.Context(), id, by(saga.RetryNow), saga.Condition{})
	if err != nil || len(told.Sends) != 1 || told.Sends[0].Step != "alpha" || len(s.sent) != 1 || s.sent[0] != doA.Type() {
		t.Errorf("told %+v, %v, and sent %q", told.Sends, err, s.sent)
	}
}
