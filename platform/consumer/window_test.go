package consumer_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
)

// windowed gives the rig's processor a window.
func windowed(t *testing.T, window time.Duration) *rig {
	t.Helper()
	r := setup(t)
	r.commands = r.processorWith(r.pool, consumer.CommandsConfig{AttemptsMax: 3, Wake: r.wake, Window: window})
	return r
}

// turn makes the inbox older by some time and has it retained.
func (r *rig) turn(by time.Duration) (dropped int) {
	r.t.Helper()
	r.exec("update inbox_window set opened_at = opened_at - $1::interval, closed_at = closed_at - $1::interval", by)
	dropped, err := r.commands.Retain(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return dropped
}

// What was handled is known through all windows, and forgotten with the oldest.
func TestTheInboxForgetsWindowByWindow(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	r := windowed(t, 2*day)
	first := command(t, reserve, 0, "a")
	r.mustProcess(first)
	for range 2 { // until the first window was closed a day ago
		if n := r.turn(day + time.Minute); n != 0 {
			t.Fatalf("%d windows dropped too early", n)
		}
		r.mustProcess(command(t, reserve, 0, "pass"), first)
	}
	r.wantCalls("reserve a", 1)
	if n := read[int](r, "select count(*) from inbox_window"); n != 3 {
		t.Errorf("%d windows, want 3", n)
	}
	if n := r.turn(day + time.Hour); n != 1 {
		t.Errorf("%d windows dropped, want the oldest", n)
	}
	if n := read[int](r, "select count(*) from pg_class where relname = 'inbox_1'"); n != 0 {
		t.Error("the table of the oldest window is still there")
	}
	if n := read[int](r, "select count(*) from inbox"); n != 2 {
		t.Errorf("%d entries are left, want those of the other windows", n)
	}
	late := command(t, reserve, 0, "b") // still knows what the next windows hold
	r.mustProcess(late, late)
	r.wantCalls("reserve b", 1)
}

func (r *rig) mustProcess(all ...events.Event) {
	r.t.Helper()
	for _, e := range all {
		if _, err := r.process(e); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A transaction that has looked a command up holds the window open until it ends,
// so no other can handle the same command in the next one meanwhile.
func TestAWindowOpensBetweenTransactions(t *testing.T) {
	t.Parallel()
	r := windowed(t, time.Hour)
	same := command(t, reserve, 0, "a")
	inside, end := make(chan struct{}), make(chan struct{})
	r.on("reserve a", func(context.Context, pgx.Tx, int) error {
		close(inside)
		<-end
		return nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := r.process(same)
		done <- err
	}()
	<-inside
	r.exec("update inbox_window set opened_at = opened_at - interval '1 h'")
	if _, err := r.commands.Retain(t.Context()); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("a window was opened in the middle of a transaction (error %v)", err)
	}
	close(end)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := r.commands.Retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := read[int](r, "select count(*) from inbox_window"); n != 2 {
		t.Errorf("%d windows, want 2", n)
	}
	r.mustProcess(same)
	r.wantCalls("reserve a", 1)
}

// A command that waits for its reply outlives its window.
func TestDeferredCommandsOutliveTheirWindow(t *testing.T) {
	t.Parallel()
	r := windowed(t, time.Hour)
	waits := command(t, reserve, 0, "a")
	var key uuid.UUID
	r.on("reserve a", func(ctx context.Context, _ pgx.Tx, _ int) error {
		key = consumer.DeferredKey(ctx)
		return consumer.ErrDeferred
	})
	r.mustProcess(waits, command(t, reserve, 0, "b"))
	r.turn(time.Hour)
	if n := r.turn(3 * time.Hour); n != 1 {
		t.Fatalf("%d windows dropped", n)
	}
	if n := read[int](r, "select count(*) from inbox"); n != 1 {
		t.Errorf("%d entries are left, want the deferred one", n)
	}
	err := pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
		return consumer.Reply(t.Context(), tx, name, reserve, key, ticket{7}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.wake()
	if n := r.wantReply(waits, ""); n != 7 {
		t.Errorf("replied %d", n)
	}
}

// What the inbox may have forgotten is set aside, and what it knows is answered
// however old it is.
func TestWhatTheInboxMayHaveForgottenIsSetAside(t *testing.T) {
	t.Parallel()
	const window = time.Hour
	ago := time.Now().Add(-2 * window)
	old := uuid.Must(uuid.NewV7())
	for i, ms := 5, ago.UnixMilli(); i >= 0; i, ms = i-1, ms>>8 {
		old[i] = byte(ms)
	}
	for how, test := range map[string]struct {
		change func(d *broker.Delivery)
		want   string // part of the reason; empty: it is handled
	}{
		"fresh":                  {func(*broker.Delivery) {}, ""},
		"stored long ago":        {func(d *broker.Delivery) { d.StoredAt = ago }, "it was stored at"},
		"sent again long after":  {func(d *broker.Delivery) { d.Event.Time = ago }, "it happened at"},
		"an old id":              {func(d *broker.Delivery) { d.Event.ID = old.String() }, "it got its id at"},
		"no time at all":         {func(d *broker.Delivery) { d.StoredAt, d.Event.Time, d.Event.ID = time.Time{}, time.Time{}, "x" }, ""},
		"a clock ahead of ours":  {func(d *broker.Delivery) { d.Event.Time = time.Now().Add(window) }, ""},
		"almost too old":         {func(d *broker.Delivery) { d.StoredAt = time.Now().Add(-window + time.Minute) }, ""},
		"undoes what is old":     {func(d *broker.Delivery) { undoes(d, ago) }, "it undoes a command that may have been sent since"},
		"undoes what is younger": {func(d *broker.Delivery) { undoes(d, time.Now()) }, ""},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := windowed(t, window)
			d := broker.Delivery{Topic: reserve.Topic(), Offset: 1, StoredAt: time.Now(), Event: command(t, reserve, 0, "a")}
			test.change(&d)
			r.exec("insert into consumer_position (consumer, topic, partition, epoch, handled) values ($1, $2, 0, 'test', 0)", name, string(d.Topic))
			batch := consumer.NewBatch(name, map[consumer.Source]uint64{{Topic: d.Topic}: 0}, d)
			if err := r.commands.Process(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				if n := read[int](r, "select count(*) from inbox"); n == 0 || read[int](r, "select count(*) from dead_letter") != 0 {
					t.Error("it was not handled")
				}
				return
			}
			if got := r.letters(1)[0]; !strings.Contains(got.Error, test.want) || read[string](r, "select reason from dead_letter") != consumer.ReasonStale {
				t.Errorf("dead letter %+v", got)
			}
			r.wantEffects()
		})
	}
	t.Run("known", func(t *testing.T) {
		t.Parallel()
		r := windowed(t, window)
		e := command(t, reserve, 0, "a")
		r.mustProcess(e)
		e.Time = ago
		r.mustProcess(e)
		if n := read[int](r, "select count(*) from dead_letter"); n != 0 {
			t.Error("it was set aside")
		}
	})
}

func undoes(d *broker.Delivery, sent time.Time) {
	d.Event.Type, d.Event.Undoes = release.Type(), "unheard-of"
	d.Event.SetExtension(events.UndoesTime, sent.UTC().Format(time.RFC3339Nano))
}

// An operator who redrives what was set aside for its age has it handled: a command
// runs, and a compensation undoes.
func TestStaleEventsAreHandledWhenRedriven(t *testing.T) {
	t.Parallel()
	const window = 30 * 24 * time.Hour
	r := windowed(t, window)
	r.feed()
	old, back := command(t, reserve, 0, "a"), undo(t, command(t, reserve, 0, "b"), "b")
	old.Time = time.Now().Add(-2 * window)
	back.SetExtension(events.UndoesTime, old.Time.UTC().Format(time.RFC3339Nano))
	r.send(old, back)
	r.letters(2)
	r.wantEffects()
	r.exec("update dead_letter set state = 'redriving', revision = revision + 1")
	r.wantReply(old, "")
	r.wantReply(back, "")
	r.wantEffects("reserve a", "release b")
}

// A feed reads nothing while the broker keeps messages for longer than the inbox
// remembers.
func TestTheWindowMustCoverTheBroker(t *testing.T) {
	t.Parallel()
	for kept, want := range map[time.Duration]string{
		7 * 24 * time.Hour: "make the window longer than 168h0m0s",
		0:                  "let the inbox forget nothing",
		time.Hour:          "",
	} {
		t.Run(kept.String(), func(t *testing.T) {
			t.Parallel()
			r := windowed(t, 24*time.Hour)
			logged := make(chan string, 100)
			r.broker = keeps{r.broker, kept}
			r.logger = logTo(logged)
			r.feed()
			sent := command(t, reserve, 0, "a")
			r.send(sent)
			if want == "" {
				r.wantReply(sent, "")
				return
			}
			for limit, told := time.After(patience), false; !told; {
				select {
				case line := <-logged:
					told = strings.Contains(line, want) && strings.Contains(line, consumer.ErrWindowTooShort.Error())
				case <-limit:
					t.Fatalf("nobody was told to %s", want)
				}
			}
			r.wantCalls("reserve a", 0)
		})
	}
}

// keeps is a broker with another retention.
type keeps struct {
	broker.Broker
	age time.Duration
}

func (k keeps) Retention(context.Context, events.Topic) (time.Duration, error) { return k.age, nil }

func TestRetentionEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, window := range []time.Duration{0, time.Hour} {
		r := windowed(t, window)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := r.commands.RunRetention(ctx); err != nil {
			t.Error(err)
		}
	}
}

// logTo is a logger whose lines a test can read.
func logTo(lines chan<- string) *slog.Logger {
	return slog.New(slog.NewTextHandler(lineWriter(lines), nil))
}

type lineWriter chan<- string

func (w lineWriter) Write(line []byte) (int, error) {
	select {
	case w <- string(line):
	default: // nobody reads any more
	}
	return len(line), nil
}
