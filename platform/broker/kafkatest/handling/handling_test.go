package handling

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/outbox/operate"
	"github.com/countermand/countermand/platform/postgres"
)

var errOut = errors.New("out of paint")

func TestADeadLetterIsRedriven(t *testing.T) {
	t.Parallel()
	s := open(t, consumertest.Config{})
	s.fail("b", consumer.Terminal(errOut))
	commands := s.send("k", "a", "b", "c")
	s.wantPainted("a", "c")
	l := s.letters(1)[0]
	if l.State != deadletter.Dead || l.Error != "out of paint" || l.Topic != string(paint.Topic()) || l.Position == 0 || l.EventID != commands[1].ID {
		t.Errorf("letter %+v", l)
	}
	if d, err := s.Broker.Lookup(t.Context(), paint.Topic(), l.Partition, uint64(l.Position)); err != nil || d.Event.ID != l.EventID {
		t.Errorf("where the letter stood is %+v, %v", d.Event, err)
	}
	s.fail("b", nil)
	s.redrive(l)
	if reply, code := consumertest.Answer[part](s.Rig, commands[1]); code != "" || reply.Name != "b" {
		t.Errorf("reply %+v %s", reply, code)
	}
	s.wantPainted("a", "c", "b")
	s.letters(0)
}

func TestKeysWaitBehindADeadLetter(t *testing.T) {
	t.Parallel()
	s := open(t, consumertest.Config{ParkKeys: true})
	s.fail("a", consumer.Terminal(errOut))
	s.send("k", "a", "b", "c")
	s.letters(3)
	s.send("other", "x")
	s.wantPainted("x")
	s.fail("a", nil)
	s.redrive(s.letters(3)[2])
	s.wantPainted("x", "a", "b", "c")
	s.letters(0)
}

func TestARangeIsReplayed(t *testing.T) {
	t.Parallel()
	s := open(t, consumertest.Config{})
	s.send("k1", "a", "b")
	s.wantPainted("a", "b")
	time.Sleep(20 * time.Millisecond) // Kafka tells the time by milliseconds
	middle := time.Now()
	time.Sleep(20 * time.Millisecond)
	c := s.send("k2", "c")[0]
	s.wantPainted("a", "b", "c")
	if _, err := s.Pool.Exec(t.Context(), "delete from inbox; delete from painted"); err != nil {
		t.Fatal(err)
	}
	if count := s.replay(deadletter.Replay{Since: ago(), Until: middle}); count.Done != 2 {
		t.Errorf("before: %+v", count)
	}
	s.wantPainted("a", "b")
	if count := s.replay(deadletter.Replay{Since: middle}); count.Done != 1 {
		t.Errorf("since: %+v", count)
	}
	s.wantPainted("a", "b", "c")
	if count := s.replay(deadletter.Replay{Since: ago(), IDs: []string{c.ID}}); count.Done != 1 {
		t.Errorf("an id: %+v", count)
	}
	s.letters(0)
	s.wantPainted("a", "b", "c") // which the inbox knows
	var where struct {
		partition int
		position  int64
	}
	if err := s.Pool.QueryRow(t.Context(), "select partition, position from dead_letter_log where event_id = $1 limit 1", c.ID).Scan(&where.partition, &where.position); err != nil {
		t.Fatal(err)
	}
	if count := s.replay(deadletter.Replay{Again: true, Positions: &deadletter.Positions{
		Partition: where.partition, From: uint64(where.position), Through: uint64(where.position),
	}}); count.Done != 1 {
		t.Errorf("a position: %+v", count)
	}
	s.wantPainted("a", "b", "c", "c")
}

// What a topic refuses for good parks its key in the outbox until it is requeued.
func TestTheOutboxParksAKey(t *testing.T) {
	t.Parallel()
	s := open(t, consumertest.Config{})
	s.send("k", "begin") // so that the topic is there
	s.wantPainted("begin")
	noise := make([]byte, 3000) // which nobody can compress
	_, _ = rand.Read(noise)     // it never fails
	fill := hex.EncodeToString(noise)
	s.limit("3000", fill, false)
	write := func(key string, parts ...part) {
		t.Helper()
		err := postgres.InTx(t.Context(), s.Pool, func(tx pgx.Tx) error {
			for _, p := range parts {
				e := consumertest.Command(t, paint, key, p)
				if err := outbox.Write(t.Context(), tx, broker.Message{Topic: paint.Topic(), PublishID: e.ID, Event: e}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Relay.Wake()
	}
	write("k", part{Name: "a"}, part{Name: "b", Fill: fill}, part{Name: "c"})
	write("other", part{Name: "x"})
	s.Await(2, "select count(*) from outbox_dead")
	s.Await(3, "select count(*) from painted")
	s.limit("1200000", fill, true)
	box := operate.New("paint", s.Pool, s.Relay)
	rows, err := box.Stuck(t.Context(), 0, 10)
	if err != nil || len(rows) != 2 || rows[0].State != operate.Dead || rows[1].State != operate.Parked {
		t.Fatalf("%+v, %v", rows, err)
	}
	_, id, _ := operate.ParseID(rows[0].ID)
	if result, err := box.Requeue(t.Context(), id, operate.Order{By: "ada", Reason: "the limit is raised"}); err != nil || result.Followers != 1 {
		t.Fatalf("%+v, %v", result, err)
	}
	s.Await(5, "select count(*) from painted")
	if got := consumertest.Read[string](s.Rig, "select string_agg(name, ' ' order by id) from painted where name not in ('begin', 'x')"); got != "a b c" {
		t.Errorf("painted %s", got)
	}
}

// What nobody handles does not hold its partition up.
func TestWhatNobodyHandlesIsSetAside(t *testing.T) {
	t.Parallel()
	s := open(t, consumertest.Config{})
	unknown := consumertest.Command(t, paint, "k", part{Name: "p"})
	unknown.Type = "test.part.polish.v1"
	message := broker.Message{Topic: paint.Topic(), PublishID: events.NewID(), Event: unknown}
	if receipt := s.Broker.PublishBatch(t.Context(), []broker.Message{message})[0]; receipt.Err != nil {
		t.Fatal(receipt.Err)
	}
	s.send("k", "a")
	s.wantPainted("a")
	if l := s.letters(1)[0]; l.Reason != consumer.ReasonNoHandler || l.EventID != unknown.ID {
		t.Errorf("letter %+v", l)
	}
}
