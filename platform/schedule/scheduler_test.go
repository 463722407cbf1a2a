package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
)

func hourly(id string) Schedule {
	return Schedule{
		ID: id, When: Spec{Every: Duration(time.Hour)}, Overlap: AllowAll,
		Do: Action{Command: checkout.Type(), Data: json.RawMessage(`{"Items":["tea"]}`)},
	}
}

func TestAFiringIsACommandInTheOutbox(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	definition := hourly("nightly-report")
	definition.Do.TimeField = "At"
	must[Record](t)(s.Create(t.Context(), definition))
	r.run(s)
	r.set(time.Hour + time.Minute)
	r.settled()

	sent := r.sent()
	if len(sent) != 1 {
		t.Fatalf("%d commands were sent, want 1", len(sent))
	}
	c := sent[0]
	firings := must[[]Firing](t)(s.Firings(t.Context(), "nightly-report", 10))
	if len(firings) != 1 || firings[0].ID != c.ID || !firings[0].At.Equal(dawn.Add(time.Hour)) || firings[0].Outcome != Started {
		t.Errorf("firings are %+v, want the command %s", firings, c.ID)
	}
	if c.topic != "shop.checkout.commands" || c.publishID != c.ID || c.Type != checkout.Type() || c.Source != "/schedules/nightly-report" ||
		c.CorrelationID != c.ID || c.PartitionKey != c.ID || !c.Time.Equal(dawn.Add(time.Hour+time.Minute)) ||
		c.Extension("schedule") != "nightly-report" || c.Extension("scheduledtime") != "2026-11-20T01:00:00Z" {
		t.Errorf("the command is %+v", c)
	}
	var request struct {
		Items []string
		At    time.Time
	}
	if err := json.Unmarshal(c.Data, &request); err != nil || len(request.Items) != 1 || !request.At.Equal(dawn.Add(time.Hour)) {
		t.Errorf("its request is %s", c.Data)
	}
}

// TestSchedulersSurviveEachOther moves the clock while processes come, are killed
// in the middle of their work, and go. Every firing must be there once.
func TestSchedulersSurviveEachOther(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	const schedules, hours = 5, 40
	for i := range schedules {
		definition := hourly(fmt.Sprintf("s%d", i))
		definition.CatchUp = CatchUp{Policy: All, Window: Duration(100 * time.Hour)}
		must[Record](t)(s.Create(t.Context(), definition))
		// Enough work that a process is killed while it is at it.
		must[Record](t)(s.Backfill(t.Context(), definition.ID, Backfill{From: dawn.Add(-1000 * time.Hour), To: dawn}, AnyRevision))
	}
	r.run(s)
	kill := r.spawn()
	for hour := 1; hour <= hours; hour++ {
		r.set(time.Duration(hour) * time.Hour)
		if hour%8 == 0 {
			kill()
			kill = r.spawn()
		}
		if hour%16 == 0 {
			r.set(0) // the database fails over to a server whose clock is behind
		}
	}
	r.set(hours * time.Hour)
	r.settled()

	seen := make(map[string]int)
	for _, c := range r.sent() {
		seen[c.Extension("schedule")+" "+c.Extension("scheduledtime")]++
	}
	for i := range schedules {
		for hour := -1000; hour <= hours; hour++ {
			key := fmt.Sprintf("s%d %s", i, dawn.Add(time.Duration(hour)*time.Hour).Format(time.RFC3339))
			want := 1
			if hour == 0 { // created at that time, and no part of the backfill
				want = 0
			}
			if seen[key] != want {
				t.Errorf("%s was sent %d times, want %d", key, seen[key], want)
			}
			delete(seen, key)
		}
		state := must[Record](t)(s.Get(t.Context(), fmt.Sprintf("s%d", i))).State
		if state.Started != 1000+hours || state.Scheduled != hours {
			t.Errorf("s%d counted %d, of them %d by itself; want %d and %d", i, state.Started, state.Scheduled, 1000+hours, hours)
		}
	}
	if len(seen) > 0 {
		t.Errorf("sent for nothing: %v", slices.Sorted(maps.Keys(seen)))
	}
}

// TestADecisionGivesWayToWhatHappenedMeanwhile pauses a schedule after a
// scheduler has read it and before it writes: the pause must stand, and nothing
// fire.
func TestADecisionGivesWayToWhatHappenedMeanwhile(t *testing.T) {
	t.Parallel()
	r := setup(t)
	operator := r.scheduler()
	definition := hourly("s")
	definition.Overlap = Skip
	must[Record](t)(operator.Create(t.Context(), definition))
	first := must[Firing](t)(operator.Trigger(t.Context(), "s", false))
	r.exec("insert into saga values ($1, 'completed')", first.ID)

	slow := r.scheduler()
	ask := slow.config.Ended
	slow.config.Ended = func(ctx context.Context, ids []string) (map[string]bool, error) {
		if _, err := operator.Pause(ctx, "s", "holiday", AnyRevision); err != nil {
			return nil, err
		}
		return ask(ctx, ids)
	}
	r.set(time.Hour)
	if _, err := slow.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := must[Record](t)(operator.Get(t.Context(), "s"))
	if !record.State.Paused || record.State.Note != "holiday" || record.State.Started != 1 {
		t.Errorf("the pause was overwritten: %+v", record.State)
	}
	if sent := r.sent(); len(sent) != 1 {
		t.Errorf("%d commands were sent, want the triggered one", len(sent))
	}
}

func TestOverlapAsksTheSagas(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	definition := hourly("s")
	definition.Overlap = BufferOne
	must[Record](t)(s.Create(t.Context(), definition))
	r.run(s)
	r.set(time.Hour)
	r.settled()
	first := r.sent()
	if len(first) != 1 {
		t.Fatalf("%d commands, want 1", len(first))
	}
	r.exec("insert into saga values ($1, 'running')", first[0].ID)
	r.set(2 * time.Hour)
	r.settled()
	record := must[Record](t)(s.Get(t.Context(), "s"))
	if len(r.sent()) != 1 || !record.State.Waiting.Equal(dawn.Add(2*time.Hour)) {
		t.Fatalf("%d commands, and %s waits; want the second firing to wait", len(r.sent()), record.State.Waiting)
	}
	r.exec("update saga set status = 'completed'")
	r.set(2*time.Hour + time.Minute) // it asks again when the clock has moved by its poll
	r.settled()
	if sent := r.sent(); len(sent) != 2 || sent[1].Extension("scheduledtime") != "2026-11-20T02:00:00Z" {
		t.Errorf("%d commands after the end of the saga, want the second firing", len(sent))
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	must[Record](t)(s.Create(t.Context(), hourly("s")))
	paused := must[Record](t)(s.Pause(t.Context(), "s", "holiday", 1))
	if paused.Revision != 2 || !paused.State.Paused || paused.State.Note != "holiday" {
		t.Errorf("paused: %+v", paused)
	}
	r.run(s)
	r.set(5*time.Hour + time.Minute)
	r.settled()
	if _, err := s.Resume(t.Context(), "s", "", 1); !errors.Is(err, ErrRevision) {
		t.Errorf("resume by an old revision: %v", err)
	}
	resumed := must[Record](t)(s.Resume(t.Context(), "s", "back", 2))
	if !resumed.State.Next.Equal(dawn.Add(6 * time.Hour)) {
		t.Errorf("next is %s, want 6 o'clock", resumed.State.Next)
	}
	r.settled()
	if n := len(r.sent()); n != 0 {
		t.Errorf("%d firings of the pause were caught up with", n)
	}
	r.set(6 * time.Hour)
	r.settled()
	if n := len(r.sent()); n != 1 {
		t.Errorf("%d commands after the pause, want 1", n)
	}
}

func TestTrigger(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	definition := hourly("s")
	definition.Overlap, definition.Limit = Skip, 5
	must[Record](t)(s.Create(t.Context(), definition))
	must[Record](t)(s.Pause(t.Context(), "s", "", AnyRevision))
	first := must[Firing](t)(s.Trigger(t.Context(), "s", false))
	if first.Kind != Triggered || first.Outcome != Started {
		t.Errorf("got %+v", first)
	}
	if _, err := s.Trigger(t.Context(), "s", false); !errors.Is(err, ErrOverlap) {
		t.Errorf("while the saga runs: %v", err)
	}
	forced := must[Firing](t)(s.Trigger(t.Context(), "s", true))
	if forced.ID == first.ID {
		t.Error("two triggers at one time have one id")
	}
	record := must[Record](t)(s.Get(t.Context(), "s"))
	if record.State.Scheduled != 0 || record.State.Started != 2 || len(r.sent()) != 2 {
		t.Errorf("counted %+v", record.State)
	}
}

func TestADeletedScheduleIsGone(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	must[Record](t)(s.Create(t.Context(), hourly("s")))
	if _, err := s.Create(t.Context(), hourly("s")); !errors.Is(err, ErrExists) {
		t.Errorf("a second one: %v", err)
	}
	r.run(s)
	r.set(time.Hour)
	r.settled()
	if err := s.Delete(t.Context(), "s", 7); !errors.Is(err, ErrRevision) {
		t.Errorf("delete by another revision: %v", err)
	}
	if err := s.Delete(t.Context(), "s", 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "s", AnyRevision); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete again: %v", err)
	}
	// One of the same name is another one: its firing of the same hour is not a repeat.
	r.set(0)
	must[Record](t)(s.Create(t.Context(), hourly("s")))
	r.set(time.Hour)
	r.settled()
	sent := r.sent()
	if len(sent) != 2 || sent[0].ID == sent[1].ID {
		t.Errorf("%d commands, want two with different ids", len(sent))
	}
}

func TestReplaceStatesAScheduleAnew(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	must[Record](t)(s.Create(t.Context(), hourly("s")))
	daily := hourly("s")
	daily.When = Spec{Cron: "0 6 * * *"}
	got := must[Record](t)(s.Replace(t.Context(), daily, 1))
	if got.Revision != 2 || !got.State.Next.Equal(dawn.Add(6*time.Hour)) {
		t.Errorf("got %+v", got)
	}
	next := must[[]time.Time](t)(s.Next(t.Context(), "s", 2))
	if len(next) != 2 || !next[1].Equal(dawn.Add(30*time.Hour)) {
		t.Errorf("the next firings are %v", next)
	}
	for name, schedule := range map[string]Schedule{
		"an unknown command":           {ID: "s", When: daily.When, Do: Action{Command: "shop.nobody.listens.v1"}},
		"overlap of a plain command":   {ID: "s", When: daily.When, Do: Action{Command: mail.Type()}, Overlap: Skip},
		"a schedule that is over":      {ID: "s", When: Spec{Cron: "0 6 * * *", End: dawn}, Do: daily.Do},
		"a time field without objects": {ID: "s", When: daily.When, Do: Action{Command: mail.Type(), Data: json.RawMessage(`[1]`), TimeField: "at"}, Overlap: AllowAll},
	} {
		if _, err := s.Replace(t.Context(), schedule, AnyRevision); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Backfill(t.Context(), "s", Backfill{From: dawn, To: dawn.Add(time.Hour)}, AnyRevision); !errors.Is(err, ErrInvalid) {
		t.Errorf("a backfill of the future: %v", err)
	}
}

// TestAScheduleThatThisProcessCannotFireIsLeftAlone puts one there that another
// binary has made; the others go on.
func TestAScheduleThatThisProcessCannotFireIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := setup(t)
	newer := r.scheduler()
	later := events.NewCommand[report, events.None]("shop.mail.announce.v1")
	newer.commands[later.Type()] = Sends(later)
	unknown := hourly("a")
	unknown.Do = Action{Command: later.Type()}
	must[Record](t)(newer.Create(t.Context(), unknown))

	s := r.scheduler()
	must[Record](t)(s.Create(t.Context(), hourly("b")))
	must[Record](t)(s.Create(t.Context(), hourly("c")))
	r.exec(`update schedule set state = '{"next":"some day"}' where id = 'c'`)
	r.set(time.Hour)
	r.run(s)
	r.settled()
	if sent := r.sent(); len(sent) != 1 || sent[0].Extension("schedule") != "b" {
		t.Errorf("sent %d commands, want that of b", len(sent))
	}
	r.set(time.Hour + time.Minute)
	r.run(newer)
	for deadline := time.Now().Add(20 * time.Second); len(r.sent()) < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process that can fire it does not")
		}
		r.exec("update clock set at = at + interval '1 s'")
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	definition := hourly("s")
	definition.CatchUp.Policy = All
	must[Record](t)(s.Create(t.Context(), definition))
	must[Record](t)(s.Backfill(t.Context(), "s", Backfill{From: dawn.Add(-2000 * time.Hour), To: dawn}, AnyRevision))
	for i := range 3 * pruneEvery {
		r.set(time.Duration(i) * time.Hour)
		if _, err := s.once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var kept int
	if err := r.pool.QueryRow(t.Context(), "select count(*) from schedule_firing").Scan(&kept); err != nil {
		t.Fatal(err)
	}
	if kept < firingsKept || kept > firingsKept+2*pruneEvery {
		t.Errorf("%d firings are kept, want about %d", kept, firingsKept)
	}
	if n := len(r.sent()); n < 2000 {
		t.Errorf("%d commands were sent, want those of the backfill", n)
	}
}
