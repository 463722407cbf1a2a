package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/postgres"
)

func TestRedrive(t *testing.T) {
	t.Parallel()
	t.Run("the event is handled and answered as if it had come just now, and the log tells the story", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(never, "a")
		command := s.send("k", "a")[0]
		l := s.letters(1)[0]
		if l.State != deadletter.Dead || l.Reason != "terminal" || l.Error != "out of paint" || l.Attempts != 1 || l.EventID != command.ID ||
			l.Key != "k" || l.CorrelationID != "k" || l.Topic != string(paint.Topic()) || l.Position == 0 || l.StoredAt == nil || l.HoldsKey {
			t.Errorf("letter %+v", l)
		}
		s.fail(nil, "a")
		s.redrive(l)
		if reply, code := consumertest.Answer[part](s.Rig, command); code != "" || reply.Name != "a" {
			t.Errorf("reply %+v %s", reply, code)
		}
		s.letters(0)
		s.wantPainted("a")
		_, err := s.store.Get(t.Context(), number(t, l))
		if !errors.Is(err, deadletter.ErrNotFound) || !strings.Contains(err.Error(), "it was handled at") {
			t.Errorf("error %v", err)
		}
		if log := consumertest.Read[string](s.Rig, "select string_agg(verb || ' ' || done_by || ' ' || note, '; ' order by id) from dead_letter_log"); log != "redrive ada ticket 1; handled paint " {
			t.Errorf("log %q", log)
		}
	})
	t.Run("other consumers of the topic and the position are not touched", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(never, "a")
		s.send("k", "a", "b", "c")
		s.wantPainted("b", "c")
		before := consumertest.Read[string](s.Rig, "select string_agg(partition || ':' || handled, ' ' order by partition) from consumer_position")
		s.fail(nil, "a")
		s.redrive(s.letters(1)[0])
		s.wantPainted("b", "c", "a")
		s.letters(0)
		if after := consumertest.Read[string](s.Rig, "select string_agg(partition || ':' || handled, ' ' order by partition) from consumer_position"); after != before {
			t.Errorf("positions %s, before %s", after, before)
		}
	})
	t.Run("one that fails is tried again, and is dead again after the last attempt", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(func(context.Context) error { return errOut }, "a")
		s.send("k", "a")
		l := s.letters(1)[0]
		s.redrive(l)
		again := s.awaitState(number(t, l), deadletter.Dead, 1)
		if again.Attempts != 4 || again.Reason != "failed" || again.Revision <= l.Revision {
			t.Errorf("letter %+v", again.Summary)
		}
		if last := again.Log[len(again.Log)-1]; last.Verb != "died" || last.Note != "out of paint" {
			t.Errorf("log %+v", again.Log)
		}
		s.wantPainted()
	})
	t.Run("many that fail and rest do not keep another from its turn", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{AttemptsMax: 1000})
		const many = 70 // more than one look takes
		names := make([]string, many+1)
		for n := range names {
			names[n] = fmt.Sprintf("a%02d", n)
		}
		s.fail(never, names...)
		s.send("k", names...)
		letters := s.letters(len(names))
		s.fail(func(context.Context) error { return errOut }, names[:many]...)
		s.fail(nil, names[many])
		for _, l := range letters {
			s.redrive(l)
		}
		s.wantPainted(names[many])
	})
	t.Run("what died too often again takes force", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(never, "a")
		s.send("k", "a")
		l := s.letters(1)[0]
		for n := range deadletter.RedrivesMax {
			s.redrive(l)
			s.awaitState(number(t, l), deadletter.Dead, n+1)
		}
		_, err := s.store.Redrive(t.Context(), number(t, l), byAda)
		wantRefused(t, err, "redriven_too_often")
		s.fail(nil, "a")
		if _, err := s.store.Redrive(t.Context(), number(t, l), deadletter.Order{By: "ada", Reason: "sure", Force: true}); err != nil {
			t.Fatal(err)
		}
		s.wantPainted("a")
	})
	t.Run("a letter that is discarded while it is handled leaves no effects", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(never, "a")
		s.send("k", "a")
		l := s.letters(1)[0]
		inside, leave := make(chan struct{}), make(chan struct{})
		s.fail(func(context.Context) error {
			close(inside)
			<-leave
			return nil
		}, "a")
		s.redrive(l)
		<-inside
		if _, err := s.store.Discard(t.Context(), number(t, l), byAda); err != nil {
			t.Fatal(err)
		}
		close(leave)
		s.send("k", "b")
		s.wantPainted("b")
		s.letters(0)
	})
	t.Run("a letter that changes while it is handled is handled as it is then", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(never, "a")
		s.send("k", "a")
		l := s.letters(1)[0]
		inside, leave := make(chan struct{}), make(chan struct{})
		s.fail(func(context.Context) error {
			close(inside)
			<-leave
			return nil
		}, "a")
		s.redrive(l)
		<-inside
		// As another process does in which it has died meanwhile, and an operator who
		// has edited it since.
		if _, err := s.Pool.Exec(t.Context(), `update dead_letter set revision = revision + 1, data = '{"name":"b"}'`); err != nil {
			t.Fatal(err)
		}
		close(leave)
		s.wantPainted("b")
		s.letters(0)
	})
	t.Run("one that is discarded before its processor buries it again leaves no effects either", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{Idle: true})
		e := consumertest.Command(t, paint, "k", part{"a"})
		var batch pgx.Batch
		consumer.QueueDeadLetter(&batch, "paint", &broker.Delivery{Topic: paint.Topic(), Offset: 1, Event: e}, 1, errOut)
		if err := s.Pool.SendBatch(t.Context(), &batch).Close(); err != nil {
			t.Fatal(err)
		}
		l := s.letters(1)[0]
		again := &gravedigger{pool: s.Pool, inside: make(chan struct{}), leave: make(chan struct{}), left: make(chan struct{})}
		redriver := consumer.NewRedriver(s.Pool, again, consumer.RedriverConfig{
			Name: "paint", Topics: []events.Topic{paint.Topic()}, Every: 10 * time.Millisecond, Logger: s.Logger,
		})
		s.Run(redriver.Run)
		s.redrive(l)
		<-again.inside
		if _, err := s.store.Discard(t.Context(), number(t, l), byAda); err != nil {
			t.Fatal(err)
		}
		close(again.leave)
		<-again.left
		s.wantPainted()
	})
	t.Run("it survives the end of the process that was to handle it", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{Idle: true})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.NewFeed().Run(ctx) }()
		s.fail(never, "a")
		s.send("k", "a")
		l := s.letters(1)[0]
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		s.fail(nil, "a")
		s.redrive(l)
		s.Feed()
		s.wantPainted("a")
		s.letters(0)
	})
	t.Run("an order without a reason, on another revision, or in a dry run does nothing", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{})
		s.fail(never, "a")
		s.send("k", "a")
		l := s.letters(1)[0]
		s.fail(nil, "a")
		_, err := s.store.Redrive(t.Context(), number(t, l), deadletter.Order{By: "ada"})
		wantRefused(t, err, "reason_required")
		_, err = s.store.Discard(t.Context(), number(t, l), deadletter.Order{By: "ada", Reason: "x", Revision: 9})
		wantRefused(t, err, "revision_moved")
		dry := deadletter.Order{By: "ada", Reason: "x", DryRun: true}
		if would, err := s.store.Redrive(t.Context(), number(t, l), dry); err != nil || would.State != deadletter.Redriving {
			t.Errorf("%+v, %v", would, err)
		}
		if _, err := s.store.Discard(t.Context(), number(t, l), dry); err != nil {
			t.Error(err)
		}
		time.Sleep(200 * time.Millisecond) // four looks of the consumer
		if got := s.letters(1)[0]; got.Revision != l.Revision || got.State != deadletter.Dead {
			t.Errorf("letter %+v", got)
		}
		s.wantPainted()
	})
}

// gravedigger is a processor that writes something and buries the event again.
type gravedigger struct {
	pool                *pgxpool.Pool
	inside, leave, left chan struct{}
}

func (g *gravedigger) Process(ctx context.Context, batch *consumer.Batch) error {
	defer close(g.left)
	return postgres.InTx(ctx, g.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into painted (name) values ('grave')"); err != nil {
			return err
		}
		close(g.inside)
		<-g.leave
		batch.Bury(0, 1, errOut)
		var positions pgx.Batch
		batch.QueuePositions(&positions)
		return tx.SendBatch(ctx, &positions).Close()
	})
}

func TestEdit(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{})
	broken := consumertest.Command(t, paint, "k", part{"a"})
	broken.Data = []byte(`{"name":7}`)
	s.Send(broken)
	l := s.letters(1)[0]
	mended := broken
	mended.Data = []byte(`{"name":"b"}`)
	invalid := mended
	invalid.ID = ""
	_, err := s.store.Edit(t.Context(), number(t, l), invalid, byAda)
	wantRefused(t, err, "invalid_event")
	_, err = s.store.Edit(t.Context(), number(t, l), mended, deadletter.Order{By: "ada", Reason: "x", Revision: l.Revision + 1})
	wantRefused(t, err, "revision_moved")
	after, err := s.store.Edit(t.Context(), number(t, l), mended, deadletter.Order{By: "ada", Reason: "a typo", Revision: l.Revision})
	if err != nil || after.Revision != l.Revision+1 || !strings.Contains(string(after.Event), `"b"`) {
		t.Fatalf("%+v, %v", after, err)
	}
	if len(after.Log) != 1 || after.Log[0].Verb != "edit" || after.Log[0].By != "ada" || after.Log[0].Note != "a typo" || !strings.Contains(string(after.Log[0].Before), "7") {
		t.Errorf("log %+v", after.Log)
	}
	s.redrive(after.Summary)
	s.wantPainted("b")
	s.letters(0)
}

func TestMalformedLettersCanBeReadAndEdited(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{})
	s.fail(never, "a")
	mended := s.send("k", "a")[0]
	l := s.letters(1)[0]
	// As the broker's raw bytes become a letter: nothing of an event can be read.
	if _, err := s.Pool.Exec(t.Context(), `update dead_letter set attributes = '\xff00', data = '\x0001', reason = 'malformed'`); err != nil {
		t.Fatal(err)
	}
	full, err := s.store.Get(t.Context(), number(t, l))
	if err != nil || full.Event != nil || string(full.Data) != "\x00\x01" {
		t.Fatalf("%+v, %v", full, err)
	}
	s.fail(nil, "a")
	s.redrive(l)
	if again := s.awaitState(number(t, l), deadletter.Dead, 1); again.Reason != "malformed" {
		t.Errorf("letter %+v", again.Summary)
	}
	if _, err := s.store.Edit(t.Context(), number(t, l), mended, byAda); err != nil {
		t.Fatal(err)
	}
	s.redrive(l)
	s.wantPainted("a")
}
