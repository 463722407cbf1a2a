package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var dawn = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// play is one schedule, driven by hand.
type play struct {
	t interface {
		Fatal(args ...any)
		Helper()
	}
	record *Record
	times  *timetable
	fired  map[string]bool
	log    []Firing
}

// begin creates a schedule at dawn.
func begin(t interface {
	Fatal(args ...any)
	Helper()
}, s Schedule,
) *play {
	t.Helper()
	s.ID, s.Do.Command = "nightly", "shop.checkout.request.v1"
	if s.When.Cron == "" && s.When.Every == 0 {
		s.When.Every = Duration(time.Hour)
	}
	s = s.withDefaults()
	times, err := s.compile()
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{Schedule: s, Revision: 1}
	r.State = State{Origin: "origin", CreatedAt: dawn, Next: times.next(dawn)}
	return &play{t: t, record: r, times: times, fired: make(map[string]bool)}
}

// at lets a scheduler look at that time after dawn, with those sagas ended, and
// returns what it did, such as "started 1h".
func (p *play) at(after time.Duration, ended ...string) string {
	p.t.Helper()
	known := make(map[string]bool)
	for _, running := range p.record.State.Running {
		known[running.ID] = false
	}
	for _, id := range ended {
		known[id] = true
	}
	var did []string
	for {
		done := advance(p.record, p.times, dawn.Add(after), known, p.fired)
		for _, f := range done.firings {
			if f.Outcome == Started {
				if p.fired[f.ID] {
					p.t.Fatal("the command of " + f.At.String() + " is sent twice")
				}
				p.fired[f.ID] = true
			}
			text := fmt.Sprintf("%s %s", f.Outcome, short(f.At.Sub(dawn)))
			if f.Count > 1 {
				text += fmt.Sprintf(" x%d", f.Count)
			}
			did = append(did, text)
		}
		p.log = append(p.log, done.firings...)
		due := done.due(time.Second)
		if due.IsZero() || due.After(dawn.Add(after)) {
			return strings.Join(did, ", ")
		}
	}
}

// short is 1h for 1h0m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// last returns the id of the saga that was started last.
func (p *play) last() string { return p.log[len(p.log)-1].ID }

func TestOverlap(t *testing.T) {
	t.Run("skip leaves firings out while a saga runs", func(t *testing.T) {
		p := begin(t, Schedule{Overlap: Skip})
		expect(t, p.at(time.Hour), "started 1h")
		first := p.last()
		expect(t, p.at(2*time.Hour), "skipped 2h")
		expect(t, p.at(3*time.Hour, first), "started 3h")
		if s := p.record.State; s.Started != 2 || s.Skipped != 1 {
			t.Errorf("counted %+v", s)
		}
	})
	t.Run("buffer one holds one back", func(t *testing.T) {
		p := begin(t, Schedule{Overlap: BufferOne})
		expect(t, p.at(time.Hour), "started 1h")
		first := p.last()
		expect(t, p.at(2*time.Hour), "")
		expect(t, p.at(3*time.Hour), "skipped 3h")
		expect(t, p.at(3*time.Hour+time.Minute, first), "started 2h")
		expect(t, p.at(4*time.Hour), "")
	})
	t.Run("allow all does not ask", func(t *testing.T) {
		p := begin(t, Schedule{Overlap: AllowAll})
		expect(t, p.at(time.Hour), "started 1h")
		expect(t, p.at(2*time.Hour), "started 2h")
		if n := len(p.record.State.Running); n != 0 {
			t.Errorf("it remembers %d sagas", n)
		}
	})
	t.Run("a saga that nobody has heard of is given up", func(t *testing.T) {
		p := begin(t, Schedule{When: Spec{Every: Duration(10 * time.Minute)}})
		expect(t, p.at(10*time.Minute), "started 10m")
		for _, c := range []struct {
			after time.Duration
			want  string
		}{{20 * time.Minute, "skipped 20m"}, {30 * time.Minute, "started 30m"}} {
			done := advance(p.record, p.times, dawn.Add(c.after), nil, nil)
			expect(t, fmt.Sprintf("%s %s", done.firings[0].Outcome, short(done.firings[0].At.Sub(dawn))), c.want)
		}
	})
}

func TestCatchUp(t *testing.T) {
	for name, c := range map[string]struct {
		schedule Schedule
		look     time.Duration
		want     string
	}{
		"latest":                      {Schedule{}, 5*time.Hour + time.Minute, "missed 1h x4, started 5h"},
		"all":                         {Schedule{Overlap: AllowAll, CatchUp: CatchUp{Policy: All}}, 3*time.Hour + time.Minute, "started 1h, started 2h, started 3h"},
		"all, as overlap allows":      {Schedule{CatchUp: CatchUp{Policy: All}}, 3*time.Hour + time.Minute, "started 1h, skipped 2h x2"},
		"all, one waits":              {Schedule{Overlap: BufferOne, CatchUp: CatchUp{Policy: All}}, 3*time.Hour + time.Minute, "started 1h, skipped 3h"},
		"all within the window":       {Schedule{Overlap: AllowAll, CatchUp: CatchUp{Policy: All, Window: Duration(90 * time.Minute)}}, 4 * time.Hour, "missed 1h x2, started 3h, started 4h"},
		"latest is out of the window": {Schedule{CatchUp: CatchUp{Window: Duration(time.Minute)}}, 3*time.Hour + 2*time.Minute, "missed 1h x3"},
		"skip when late":              {Schedule{CatchUp: CatchUp{Policy: None}}, 3*time.Hour + 2*time.Minute, "missed 1h x3"},
		"skip when a little late":     {Schedule{CatchUp: CatchUp{Policy: None}}, 3*time.Hour + 30*time.Second, "missed 1h x2, started 3h"},
		"a day of seconds": {
			Schedule{When: Spec{Every: Duration(time.Second)}}, 23 * time.Hour, "missed 1s x10000, missed 2h46m41s x10000, missed 5h33m21s x10000, " +
				"missed 8h20m1s x10000, missed 11h6m41s x10000, missed 13h53m21s x10000, missed 16h40m1s x10000, missed 19h26m41s x10000, missed 22h13m21s x2799, started 23h",
		},
	} {
		t.Run(name, func(t *testing.T) { expect(t, begin(t, c.schedule).at(c.look), c.want) })
	}
}

func TestLimit(t *testing.T) {
	p := begin(t, Schedule{Overlap: AllowAll, Limit: 2, CatchUp: CatchUp{Policy: All}})
	expect(t, p.at(5*time.Hour), "started 1h, started 2h")
	if !p.record.State.Next.IsZero() {
		t.Errorf("there is a next firing at %s", p.record.State.Next)
	}
	p = begin(t, Schedule{Overlap: BufferOne, Limit: 2})
	expect(t, p.at(time.Hour), "started 1h")
	first := p.last()
	expect(t, p.at(2*time.Hour), "")
	expect(t, p.at(3*time.Hour, first), "started 2h")
}

func TestEnd(t *testing.T) {
	p := begin(t, Schedule{Overlap: AllowAll, When: Spec{Every: Duration(time.Hour), End: dawn.Add(3 * time.Hour)}, CatchUp: CatchUp{Policy: All}})
	expect(t, p.at(10*time.Hour), "started 1h, started 2h")
}

func TestBackfill(t *testing.T) {
	ago := func(h int) time.Time { return dawn.Add(time.Duration(h) * time.Hour) }
	t.Run("all at once, and what has fired is left out", func(t *testing.T) {
		p := begin(t, Schedule{Overlap: AllowAll})
		expect(t, p.at(2*time.Hour), "missed 1h, started 2h")
		p.record.State.Backfills = []Backfill{{From: ago(-2), To: ago(3)}}
		expect(t, p.at(2*time.Hour+time.Minute), "started -2h, started -1h, started 0s, started 1h")
		if len(p.record.State.Backfills) != 0 {
			t.Errorf("it goes on: %+v", p.record.State.Backfills)
		}
	})
	t.Run("again repeats what has fired", func(t *testing.T) {
		p := begin(t, Schedule{Overlap: AllowAll})
		expect(t, p.at(time.Hour), "started 1h")
		p.record.State.Backfills = []Backfill{{From: ago(1), To: ago(2), Again: true, Salt: "7"}}
		expect(t, p.at(time.Hour+time.Minute), "started 1h")
	})
	t.Run("one by one waits for each saga, also while paused", func(t *testing.T) {
		p := begin(t, Schedule{})
		p.record.State.Paused, p.record.State.Next = true, time.Time{}
		p.record.State.Backfills = []Backfill{{From: ago(-2), To: ago(0), OneByOne: true}}
		expect(t, p.at(time.Minute), "started -2h")
		expect(t, p.at(2*time.Minute), "")
		expect(t, p.at(3*time.Minute, p.last()), "started -1h")
		expect(t, p.at(4*time.Minute, p.last()), "")
		if len(p.record.State.Backfills) != 0 {
			t.Errorf("it goes on: %+v", p.record.State.Backfills)
		}
	})
	t.Run("a long one goes in portions", func(t *testing.T) {
		p := begin(t, Schedule{Overlap: AllowAll, When: Spec{Every: Duration(time.Minute)}})
		p.record.State.Backfills = []Backfill{{From: ago(-5), To: ago(0)}}
		done := advance(p.record, p.times, dawn, nil, nil)
		if len(done.firings) != startsMax || done.due(time.Second).After(dawn) {
			t.Errorf("%d at once, then due at %s", len(done.firings), done.due(time.Second))
		}
		p.at(0)
		if p.record.State.Started != 300 {
			t.Errorf("started %d, want 300", p.record.State.Started)
		}
	})
}

func TestOnePassSendsNoMoreThanItsBudget(t *testing.T) {
	p := begin(t, Schedule{Overlap: BufferOne, CatchUp: CatchUp{Policy: All}, When: Spec{Every: Duration(time.Minute)}})
	p.record.State.Waiting = dawn
	p.record.State.Backfills = []Backfill{{From: dawn.Add(-5 * time.Hour), To: dawn}}
	p.record.Overlap = AllowAll
	done := advance(p.record, p.times, dawn.Add(time.Hour), nil, nil)
	if n := len(done.firings); n != startsMax+1 { // and the one that waited
		t.Errorf("it sends %d, want %d", n, startsMax+1)
	}
}

// TestEveryFiringIsDecidedOnce lets schedulers look at random times, with gaps,
// while sagas end at random.
func TestEveryFiringIsDecidedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Schedule{
			When: Spec{
				Every:  Duration(rapid.SampledFrom([]time.Duration{time.Minute, 7 * time.Minute, time.Hour}).Draw(t, "every")),
				Jitter: Duration(rapid.SampledFrom([]time.Duration{0, 30 * time.Second, time.Hour}).Draw(t, "jitter")),
			},
			Overlap: rapid.SampledFrom([]Overlap{Skip, BufferOne, AllowAll}).Draw(t, "overlap"),
			CatchUp: CatchUp{
				Policy: rapid.SampledFrom([]CatchUpPolicy{Latest, All, None}).Draw(t, "catch up"),
				Window: Duration(rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "window")),
			},
		}
		p := begin(t, s)
		running := make(map[string]bool)
		now := time.Duration(0)
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			now += time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "pause"))
			var ended []string
			for id := range running {
				if rapid.Bool().Draw(t, "ends") {
					ended = append(ended, id)
				}
			}
			for _, id := range ended {
				delete(running, id)
			}
			before := len(p.log)
			p.at(now, ended...)
			for _, f := range p.log[before:] {
				if f.Outcome != Started {
					continue
				}
				if s.Overlap != AllowAll && len(running) > 0 {
					t.Fatalf("%s was started while another saga ran", f.At)
				}
				running[f.ID] = true
			}
		}
		decided := int64(0)
		for _, f := range p.log {
			decided += int64(f.Count)
		}
		if !p.record.State.Waiting.IsZero() {
			decided++
		}
		want := int64(0)
		for at := p.times.next(dawn); !p.times.due("origin", at).After(dawn.Add(now)); at = p.times.next(at) {
			want++
		}
		state := p.record.State
		if decided != want {
			t.Fatalf("%d firings were due by %s and %d were decided", want, now, decided)
		}
		waiting := int64(0)
		if !state.Waiting.IsZero() {
			waiting = 1
		}
		if state.Started+state.Skipped+state.Missed+waiting != want {
			t.Fatalf("it counted %+v of %d", state, want)
		}
	})
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("it %q, want %q", got, want)
	}
}
