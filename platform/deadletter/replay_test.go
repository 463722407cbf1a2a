package deadletter_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

// replay gives an order about all that the shop was ever sent, and returns what
// became of each message.
func (s *shop) replay(change func(*deadletter.Replay)) (deadletter.BulkCount, []deadletter.ReplayItem, error) {
	s.T.Helper()
	r := deadletter.Replay{Order: byAda, Consumer: "paint", Topic: paint.Topic(), Since: time.Now().Add(-time.Hour), Expected: -1, Rate: 1000}
	change(&r)
	if r.Expected < 0 { // as a dry run has counted them
		dry := r
		dry.Order.DryRun = true
		count, err := s.store.Replay(s.T.Context(), s.Broker, dry, func(int) {}, func(deadletter.ReplayItem) {})
		if err != nil {
			return count, nil, err
		}
		r.Expected = count.Selected
	}
	var items []deadletter.ReplayItem
	count, err := s.store.Replay(s.T.Context(), s.Broker, r, func(int) {}, func(item deadletter.ReplayItem) { items = append(items, item) })
	return count, items, err
}

func all(*deadletter.Replay) {}

func again(r *deadletter.Replay) { r.Again = true }

// keepingADay is a broker that the inbox outlives.
func keepingADay(t *testing.T) broker.Broker {
	t.Helper()
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{Partitions: 4, MaxAge: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// forget empties the inbox and what the handlers wrote, as if the service's database
// had been lost.
func (s *shop) forget() {
	s.T.Helper()
	if _, err := s.Pool.Exec(s.T.Context(), "delete from inbox; delete from painted"); err != nil {
		s.T.Fatal(err)
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	t.Run("a range is handled once more, in the order of each key, and the log tells who wanted it", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.send("k", "a", "b", "c", "d", "e")
		s.wantPainted("a", "b", "c", "d", "e")
		s.forget()
		count, items, err := s.replay(all)
		if err != nil || count.Done != 5 || len(items) != 5 || items[0].DeadLetter == "" || items[0].Outcome != deadletter.BulkDone {
			t.Fatalf("%+v, %+v, %v", count, items, err)
		}
		s.wantPainted("a", "b", "c", "d", "e")
		s.letters(0)
		if log := consumertest.Read[string](s.Rig, "select string_agg(verb || ' ' || done_by || ' ' || note, '; ' order by id) from dead_letter_log where letter = (select min(letter) from dead_letter_log)"); log != "replay ada ticket 1; handled paint " {
			t.Errorf("log %q", log)
		}
	})
	t.Run("what the consumer remembers has no effect again, and is answered as it was", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		command := s.send("k", "a")[0]
		consumertest.Answer[part](s.Rig, command)
		if count, _, err := s.replay(all); err != nil || count.Done != 1 {
			t.Fatalf("%+v, %v", count, err)
		}
		if reply, code := consumertest.Answer[part](s.Rig, command); code != "" || reply.Name != "a" {
			t.Errorf("reply %+v %s", reply, code)
		}
		s.letters(0)
		s.wantPainted("a")
	})
	t.Run("again makes effects a second time without a second reply, and leaves the inbox as it was", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(func(context.Context) error { return events.Reject("no_paint", "none left") }, "r")
		commands := s.send("k", "a", "r")
		for _, c := range commands {
			consumertest.Answer[part](s.Rig, c)
		}
		before := consumertest.Read[string](s.Rig, "select string_agg(inbox::text, ' ' order by key) from inbox")
		s.fail(nil, "r")
		if count, _, err := s.replay(again); err != nil || count.Done != 2 {
			t.Fatalf("%+v, %v", count, err)
		}
		s.letters(0)
		s.wantPainted("a", "a") // the rejected one had no effect to make again
		if after := consumertest.Read[string](s.Rig, "select string_agg(inbox::text, ' ' order by key) from inbox"); after != before {
			t.Errorf("inbox %s, before %s", after, before)
		}
		// What comes after all replies that there were to be.
		last := s.send("k", "z")[0]
		consumertest.Answer[part](s.Rig, last)
		if n := s.Unread(commands[0]); n != 0 {
			t.Errorf("%d more replies to a command that had one", n)
		}
	})
	t.Run("only what the order selects", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		first := s.send("k1", "a", "b")
		s.wantPainted("a", "b")
		time.Sleep(20 * time.Millisecond)
		middle := time.Now()
		time.Sleep(20 * time.Millisecond)
		s.send("k2", "c")
		s.wantPainted("a", "b", "c")
		stood := consumertest.Read[int64](s.Rig, "select max(handled) from consumer_position where topic = $1", string(paint.Topic()))
		partition := consumertest.Read[int](s.Rig, "select partition from consumer_position where topic = $1 and handled = $2", string(paint.Topic()), stood)
		for name, c := range map[string]struct {
			change func(*deadletter.Replay)
			want   int
		}{
			"before":  {func(r *deadletter.Replay) { r.Until = middle }, 2},
			"since":   {func(r *deadletter.Replay) { r.Since = middle }, 1},
			"an id":   {func(r *deadletter.Replay) { r.IDs = []string{first[1].ID, "none"} }, 1},
			"a key":   {func(r *deadletter.Replay) { r.Key = "k1" }, 2},
			"a saga":  {func(r *deadletter.Replay) { r.CorrelationID = "k2" }, 1},
			"another": {func(r *deadletter.Replay) { r.EventType = "test.part.polish.v1" }, 0},
			"a position": {func(r *deadletter.Replay) {
				r.Positions = &deadletter.Positions{Partition: partition, From: uint64(stood), Through: uint64(stood)}
			}, 1},
			"none so far": {func(r *deadletter.Replay) {
				r.Positions = &deadletter.Positions{Partition: partition, From: uint64(stood) + 1, Through: uint64(stood) + 100}
			}, 0},
		} {
			if count, items, err := s.replay(func(r *deadletter.Replay) { c.change(r); r.Order.DryRun = true }); err != nil || count.Done != c.want {
				t.Errorf("%s: %+v, %+v, %v; want %d", name, count, items, err, c.want)
			}
		}
		s.letters(0)
	})
	t.Run("one that fails is a dead letter, and the others are handled", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.send("k", "a", "b", "c")
		s.wantPainted("a", "b", "c")
		s.forget()
		s.fail(never, "b")
		if _, _, err := s.replay(all); err != nil {
			t.Fatal(err)
		}
		s.wantPainted("a", "c")
		l := s.letters(1)[0]
		if l.State != deadletter.Dead || !l.Replayed || l.Error != "out of paint" {
			t.Errorf("letter %+v", l)
		}
		s.fail(nil, "b")
		s.redrive(l)
		s.wantPainted("a", "c", "b")
	})
	t.Run("later ones of a key wait for the retry of an earlier one, and other keys do not", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{AttemptsMax: 1000})
		s.send("k", "a", "b")
		s.wantPainted("a", "b")
		s.send("other", "x")
		s.wantPainted("a", "b", "x")
		s.forget()
		s.fail(func(context.Context) error { return errOut }, "a")
		if _, _, err := s.replay(all); err != nil {
			t.Fatal(err)
		}
		s.wantPainted("x")
		s.fail(nil, "a")
		s.wantPainted("x", "a", "b")
	})
	t.Run("it waits behind a dead letter that holds its key", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true})
		s.send("k", "a")
		s.wantPainted("a")
		s.forget()
		s.fail(never, "b")
		s.send("k", "b")
		dead := s.letters(1)[0]
		if count, items, err := s.replay(all); err != nil || count.Done != 1 || count.Refused != 1 || items[1].Code != "already_set_aside" {
			t.Fatalf("%+v, %+v, %v", count, items, err)
		}
		if l := s.letters(2)[1]; l.State != deadletter.Parked || !l.Replayed {
			t.Errorf("letter %+v", l)
		}
		s.fail(nil, "b")
		s.redrive(dead)
		s.wantPainted("b", "a")
	})
	t.Run("an event that the inbox may have forgotten is set aside, unless the order says again", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{Window: 24 * time.Hour, Broker: keepingADay(t)})
		old := consumertest.Command(t, paint, "k", part{"old"})
		old.Time = old.Time.Add(-25 * time.Hour)
		s.Send(old)
		if _, err := s.store.Discard(t.Context(), number(t, s.letters(1)[0]), byAda); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.replay(all); err != nil {
			t.Fatal(err)
		}
		l := s.awaitState(number(t, s.letters(1)[0]), deadletter.Dead, 0)
		if l.Reason != "stale" {
			t.Errorf("letter %+v", l.Summary)
		}
		s.redrive(l.Summary) // which is a decision about this one
		s.wantPainted("old")
		if count, _, err := s.replay(again); err != nil || count.Done != 1 {
			t.Fatalf("%+v, %v", count, err)
		}
		s.wantPainted("old", "old")
	})
	t.Run("too often, wrong counts and orders that make no sense are refused, and do nothing", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.send("k", "a")
		s.wantPainted("a")
		for code, change := range map[string]func(*deadletter.Replay){
			"reason_required":    func(r *deadletter.Replay) { r.Order.Reason = "" },
			"consumer_not_found": func(r *deadletter.Replay) { r.Consumer = "polish" },
			"invalid_range":      func(r *deadletter.Replay) { r.Until = r.Since },
			"count_differs":      func(r *deadletter.Replay) { r.Expected = 2 },
			"too_many_ids":       func(r *deadletter.Replay) { r.IDs = make([]string, deadletter.ReplayIDsMax+1) },
		} {
			count, items, err := s.replay(change)
			if wantRefused(t, err, code); count.Done > 0 || len(items) > 0 {
				t.Errorf("%s: %+v, %+v", code, count, items)
			}
		}
		for _, p := range []deadletter.Positions{{Partition: 0, From: 0, Through: 1}, {Partition: 0, From: 2, Through: 1}, {Partition: -1, From: 1, Through: 1}, {Partition: 4, From: 1, Through: 1}} {
			_, _, err := s.replay(func(r *deadletter.Replay) { r.Positions = &p })
			wantRefused(t, err, "invalid_range")
		}
		for range deadletter.ReplaysMax {
			if count, _, err := s.replay(all); err != nil || count.Done != 1 {
				t.Fatalf("%+v, %v", count, err)
			}
			s.letters(0)
		}
		if _, items, err := s.replay(all); err != nil || items[0].Code != "replayed_too_often" || items[0].DeadLetter != "" {
			t.Errorf("%+v, %v", items, err)
		}
		s.letters(0)
		if count, _, err := s.replay(func(r *deadletter.Replay) { r.Order.Force = true }); err != nil || count.Done != 1 {
			t.Errorf("with force: %+v, %v", count, err)
		}
		s.letters(0)
		s.wantPainted("a")
	})
	t.Run("it ends when its time is up, and what was put there stands", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.send("k", "a", "b", "c")
		s.wantPainted("a", "b", "c")
		s.forget()
		count, _, err := s.replay(func(r *deadletter.Replay) { r.Expected, r.Rate, r.TimeMax = 3, 0.2, 3*time.Second })
		if !errors.Is(err, deadletter.ErrTimeUp) || count.Done != 1 {
			t.Errorf("%+v, %v", count, err)
		}
		s.wantPainted("a")
	})
}

func TestReplayOfTheBacklogEndsWhileMoreArrives(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{})
	s.send("k", "a", "b")
	s.wantPainted("a", "b")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				s.Send(consumertest.Command(t, paint, "live", part{"l"}))
			}
		}
	}()
	count, _, err := s.replay(func(r *deadletter.Replay) { r.Key, r.Order.DryRun = "k", true })
	close(stop)
	<-stopped
	if err != nil || count.Done != 2 {
		t.Errorf("%+v, %v", count, err)
	}
}

// A consumer that remembers nothing makes its effects again by a replay, so it takes
// the word; one that remembers by itself cannot be made to.
func TestReplayAsksWhatTheConsumerRemembers(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{Idle: true})
	s.send("k", "a")
	for name, memory := range map[string]consumer.Memory{"none": "", "own": consumer.MemoryOwn} {
		processor := consumer.Processor(counting{})
		if memory != "" {
			processor = remembering{memory: memory}
		}
		feed, err := consumer.NewFeed(s.Pool, s.Broker, processor, consumer.FeedConfig{Name: name, Topics: []events.Topic{paint.Topic()}, Logger: s.Logger})
		if err != nil {
			t.Fatal(err)
		}
		s.Run(feed.Run)
	}
	s.Await(2, "select count(*) from consumer_topic")
	for _, c := range []struct {
		consumer string
		again    bool
		code     string
	}{{"none", false, "remembers_nothing"}, {"none", true, ""}, {"own", true, "again_impossible"}, {"own", false, ""}} {
		_, _, err := s.replay(func(r *deadletter.Replay) { r.Consumer, r.Again, r.Order.DryRun = c.consumer, c.again, true })
		if c.code == "" && err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if c.code != "" {
			wantRefused(t, err, c.code)
		}
	}
	known, err := s.store.Consumers(t.Context())
	if err != nil || len(known) != 2 || known[0].Consumer != "none" || known[0].Memory != consumer.MemoryNone || known[1].Memory != consumer.MemoryOwn ||
		!strings.HasPrefix(known[0].Topic, "test.part") {
		t.Errorf("%+v, %v", known, err)
	}
}

// counting handles everything by doing nothing.
type counting struct{}

func (counting) Process(_ context.Context, batch *consumer.Batch) error {
	for i := range batch.Deliveries {
		batch.Done(i)
	}
	return nil
}

type remembering struct {
	counting
	memory consumer.Memory
}

func (r remembering) Memory() consumer.Memory { return r.memory }
