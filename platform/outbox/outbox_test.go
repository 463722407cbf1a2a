package outbox_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
)

func TestWriteRefusesWhatNoBrokerTakes(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(*broker.Message){
		"no publish id": func(m *broker.Message) { m.PublishID = "" },
		"no topic":      func(m *broker.Message) { m.Topic = "" },
		"a bad topic":   func(m *broker.Message) { m.Topic = "a b.*" },
		"no event id":   func(m *broker.Message) { m.Event.ID = "" },
		"no type":       func(m *broker.Message) { m.Event.Type = "" },
		"too much data": func(m *broker.Message) { m.Event.Data = make([]byte, broker.MessageBytesMax+1) },
		"an attribute that is too long": func(m *broker.Message) {
			m.Event.Subject = strings.Repeat("x", events.AttributeBytesMax+1)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			bad := message("k", "bad")
			spoil(&bad)
			// Without a transaction: nothing may be sent, not even the good one.
			if err := outbox.Write(t.Context(), nil, message("k", "good"), bad); !errors.Is(err, broker.ErrRejected) {
				t.Errorf("Write: %v", err)
			}
			var batch pgx.Batch
			if err := outbox.Queue(&batch, message("k", "good"), bad); !errors.Is(err, broker.ErrRejected) || batch.Len() != 0 {
				t.Errorf("Queue: %v, %d statements", err, batch.Len())
			}
		})
	}
	t.Run("nothing is nothing", func(t *testing.T) {
		t.Parallel()
		var batch pgx.Batch
		if err := errors.Join(outbox.Write(t.Context(), nil), outbox.Queue(&batch)); err != nil || batch.Len() != 0 {
			t.Errorf("%v, %d statements", err, batch.Len())
		}
	})
}

// The two ways in which outboxes commonly lose or reorder events.
func TestCommitOrder(t *testing.T) {
	t.Parallel()
	// Ordered by transaction id, behind the oldest open one, 2 would come first: it is
	// the only one that may be read, and 1 follows when the unrelated one has ended.
	t.Run("a transaction that got its xid early does not overtake one that wrote before it", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		if _, err := r.Exec(t.Context(), "create table other (id int); create table k (id int); insert into k values (1)"); err != nil {
			t.Fatal(err)
		}
		early, unrelated, late := r.begin(), r.begin(), r.begin()
		r.in(early, "insert into other values (2)") // has its xid
		r.in(unrelated, "insert into other values (0)")
		r.in(late, "select from k for update")
		r.writeIn(late, "1")
		r.commit(late)
		r.in(early, "select from k for update")
		r.writeIn(early, "2")
		r.commit(early)
		r.relay("relay", outbox.RelayConfig{})
		r.await("an event", func() bool { return len(r.broker.all()) > 0 })
		r.commit(unrelated)
		r.awaitEmpty()
		r.wantStored("1", "2")
	})
	t.Run("an id that commits late is not passed over", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.relay("relay", outbox.RelayConfig{})
		early, late := r.begin(), r.begin()
		r.writeIn(early, "early id")
		r.writeIn(late, "late id")
		r.commit(late)
		r.await("the later id", func() bool { return slices.Contains(r.broker.all(), "late id") })
		r.awaitEmpty()
		r.commit(early)
		r.await("the earlier id", func() bool { return slices.Contains(r.broker.all(), "early id") })
		r.awaitEmpty()
	})
	t.Run("what is rolled back is never published", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.relay("relay", outbox.RelayConfig{})
		tx := r.begin()
		r.writeIn(tx, "never")
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.write(message("k", "next"))
		r.awaitEmpty()
		r.wantStored("next")
	})
	t.Run("one Write keeps its order, and the event arrives as it was", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.write(series("k", 0, 200)...)
		r.relay("relay", outbox.RelayConfig{BatchMax: 7})
		r.awaitEmpty()
		r.wantOrder(200)
	})
}
