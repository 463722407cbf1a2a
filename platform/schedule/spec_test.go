package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestNextFirings(t *testing.T) {
	const newYork, lordHowe, saoPaulo, berlin = "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Europe/Berlin"
	for name, c := range map[string]struct {
		spec  Spec
		after string
		want  string // in the zone, by spaces
	}{
		"a weekday morning": {
			Spec{Cron: "30 4 * * MON-FRI", Zone: berlin},
			"2026-11-20T12:00:00+01:00", "2026-11-23T04:30:00+01:00 2026-11-24T04:30:00+01:00",
		},
		"the instant itself is not after it": {
			Spec{Cron: "0 * * * *"},
			"2026-11-20T12:00:00Z", "2026-11-20T13:00:00Z",
		},
		"UTC without a zone": {
			Spec{Cron: "@daily"},
			"2026-11-20T12:00:00+09:00", "2026-11-21T00:00:00Z",
		},
		"either day field matches when both are restricted": {
			Spec{Cron: "0 0 13 * FRI"},
			"2026-02-28T00:00:00Z", "2026-03-06T00:00:00Z 2026-03-13T00:00:00Z 2026-03-20T00:00:00Z",
		},
		"the last day of a month": {
			Spec{Cron: "0 0 L * *"},
			"2028-01-15T00:00:00Z", "2028-01-31T00:00:00Z 2028-02-29T00:00:00Z 2028-03-31T00:00:00Z",
		},
		"the second Friday": {
			Spec{Cron: "0 0 * * FRI#2"},
			"2026-03-01T00:00:00Z", "2026-03-13T00:00:00Z 2026-04-10T00:00:00Z",
		},
		"a leap day eight years ahead": {
			Spec{Cron: "0 0 29 2 *"},
			"2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z",
		},

		"a time that is skipped fires when the gap ends": {
			Spec{Cron: "30 2 * * *", Zone: newYork},
			"2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:30:00-04:00",
		},
		"several times that are skipped fire once": {
			Spec{Cron: "0,15,30 2,3 * * *", Zone: newYork},
			"2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-08T03:15:00-04:00 2026-03-08T03:30:00-04:00 2026-03-09T02:00:00-04:00",
		},
		"a skipped day of the week is not made up on another": {
			Spec{Cron: "30 2 * * MON", Zone: newYork},
			"2026-03-07T12:00:00-05:00", "2026-03-09T02:30:00-04:00",
		},
		"midnight that is skipped": {
			Spec{Cron: "0 0 * * *", Zone: saoPaulo},
			"2018-11-03T12:00:00-03:00", "2018-11-04T01:00:00-02:00 2018-11-05T00:00:00-02:00",
		},
		"a gap of half an hour": {
			Spec{Cron: "15 2 * * *", Zone: lordHowe},
			"2026-10-03T12:00:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00",
		},
		"a time that comes twice fires the first time": {
			Spec{Cron: "30 1 * * *", Zone: newYork},
			"2026-10-31T12:00:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00",
		},
		"asked in the second pass it has fired": {
			Spec{Cron: "30 1 * * *", Zone: newYork},
			"2026-11-01T01:10:00-05:00", "2026-11-02T01:30:00-05:00",
		},
		"the end of an overlap is no overlap": {
			Spec{Cron: "0 1,2 * * *", Zone: newYork},
			"2026-11-01T00:30:00-04:00", "2026-11-01T01:00:00-04:00 2026-11-01T02:00:00-05:00 2026-11-02T01:00:00-05:00",
		},
		"an overlap of half an hour": {
			Spec{Cron: "45 1 * * *", Zone: lordHowe},
			"2027-04-03T12:00:00+11:00", "2027-04-04T01:45:00+11:00 2027-04-05T01:45:00+10:30",
		},
		"every half hour through a gap": {
			Spec{Cron: "*/30 * * * *", Zone: newYork},
			"2026-03-08T01:00:00-05:00", "2026-03-08T01:30:00-05:00 2026-03-08T03:00:00-04:00 2026-03-08T03:30:00-04:00",
		},
		"every half hour through an overlap": {
			Spec{Cron: "*/30 * * * *", Zone: newYork},
			"2026-11-01T00:40:00-04:00", "2026-11-01T01:00:00-04:00 2026-11-01T01:30:00-04:00 2026-11-01T01:00:00-05:00 2026-11-01T01:30:00-05:00 2026-11-01T02:00:00-05:00",
		},
		"hourly through an overlap": {
			Spec{Cron: "@hourly", Zone: newYork},
			"2026-11-01T00:40:00-04:00", "2026-11-01T01:00:00-04:00 2026-11-01T01:00:00-05:00 2026-11-01T02:00:00-05:00",
		},
		"a zone without jumps any more": {
			Spec{Cron: "30 2 * * *", Zone: "Asia/Tokyo"},
			"2026-03-07T12:00:00+09:00", "2026-03-08T02:30:00+09:00",
		},

		"an interval from 1970": {
			Spec{Every: Duration(6 * time.Hour)},
			"2026-11-20T12:00:00Z", "2026-11-20T18:00:00Z 2026-11-21T00:00:00Z",
		},
		"an interval from its start": {
			Spec{Every: Duration(7 * time.Hour), Start: time.Date(2026, 11, 20, 1, 0, 0, 0, time.UTC)},
			"2020-01-01T00:00:00Z", "2026-11-20T01:00:00Z 2026-11-20T08:00:00Z",
		},
		"the start is included, the end is not": {
			Spec{Cron: "0 0 * * *", Start: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), End: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)},
			"2020-01-01T00:00:00Z", "2026-11-20T00:00:00Z 2026-11-21T00:00:00Z",
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.Fields(c.want)
			n := len(want)
			if !c.spec.End.IsZero() {
				n++
			}
			got, err := c.spec.Next(instant(t, c.after), n)
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			for _, at := range got {
				texts = append(texts, at.Format(time.RFC3339))
			}
			if strings.Join(texts, " ") != c.want {
				t.Errorf("got  %s\nwant %s", strings.Join(texts, " "), c.want)
			}
		})
	}
}

// TestNextAgreesWithTheWallClock walks through time minute by minute and looks at
// the clock on the wall, in zones with jumps of all kinds.
func TestNextAgreesWithTheWallClock(t *testing.T) {
	zones := []string{"UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu", "Africa/Casablanca", "Antarctica/Troll"}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(zones).Draw(t, "zone")
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		minutes := rapid.SliceOfNDistinct(rapid.IntRange(0, 59), 1, 3, rapid.ID).Draw(t, "minutes")
		hours := rapid.SliceOfNDistinct(rapid.IntRange(0, 5), 0, 3, rapid.ID).Draw(t, "hours") // none: every hour
		weekday := rapid.IntRange(-1, 6).Draw(t, "weekday")                                    // -1: every day
		// Begin within two days of a jump, where there is one.
		after := time.Date(rapid.IntRange(2000, 2030).Draw(t, "year"), time.Month(rapid.IntRange(1, 12).Draw(t, "month")), 1, 0, 0, 0, 0, time.UTC)
		if _, jump := after.In(zone).ZoneBounds(); !jump.IsZero() {
			after = jump
		}
		after = after.Add(-time.Duration(rapid.IntRange(-300, 2*24*60).Draw(t, "minutes before")) * time.Minute).Truncate(time.Minute)

		fields := []string{list(minutes), "*", "*", "*", "*"}
		if len(hours) > 0 {
			fields[1] = list(hours)
		}
		if weekday >= 0 {
			fields[4] = list([]int{weekday})
		}
		spec := Spec{Cron: strings.Join(fields, " "), Zone: name}
		matches := func(wall time.Time) bool {
			return slices.Contains(minutes, wall.Minute()) && (len(hours) == 0 || slices.Contains(hours, wall.Hour())) && (weekday < 0 || int(wall.Weekday()) == weekday)
		}
		var want []time.Time
		seen := make(map[time.Time]bool) // walls, as if they were UTC
		wallOf := func(at time.Time) time.Time {
			_, seconds := at.In(zone).Zone()
			return at.UTC().Add(time.Duration(seconds) * time.Second)
		}
		const days = 9
		for at := after.Add(-2 * 24 * time.Hour); at.Before(after.Add(days * 24 * time.Hour)); at = at.Add(time.Minute) {
			wall, before := wallOf(at), wallOf(at.Add(-time.Minute))
			fires := matches(wall)
			if len(hours) > 0 {
				fires = fires && !seen[wall]
				for gap := before.Add(time.Minute); gap.Before(wall); gap = gap.Add(time.Minute) {
					fires = fires || matches(gap)
				}
			}
			seen[wall] = true
			if fires && at.After(after) {
				want = append(want, at)
			}
		}
		got, err := spec.Next(after, len(want)+1)
		if err != nil {
			t.Fatal(err)
		}
		for len(got) > 0 && !got[len(got)-1].Before(after.Add(days*24*time.Hour)) {
			got = got[:len(got)-1]
		}
		if len(got) != len(want) {
			t.Fatalf("%s in %s after %s: got %v, want %v", spec.Cron, name, after.In(zone), got, want)
		}
		for i := range got {
			if !got[i].Equal(want[i]) {
				t.Fatalf("%s in %s after %s: firing %d is at %s, want %s", spec.Cron, name, after.In(zone), i, got[i], want[i].In(zone))
			}
		}
	})
}

// list writes numbers as a field of a cron expression.
func list(numbers []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", ",")
}

func TestJitterIsTheSameForAllAndKeepsTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := Spec{
			Every:  Duration(rapid.Int64Range(int64(time.Second), int64(24*time.Hour)).Draw(t, "every")),
			Jitter: Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "jitter")),
		}
		salt := rapid.String().Draw(t, "salt")
		a, err := spec.compile()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := spec.compile()
		at := a.next(time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC))
		for range 20 {
			due, following := a.due(salt, at), a.next(at)
			if !due.Equal(b.due(salt, at)) {
				t.Fatalf("%s is due at %s and at %s", at, due, b.due(salt, at))
			}
			if due.Before(at) || !due.Before(following) || due.Sub(at) > time.Duration(spec.Jitter) {
				t.Fatalf("%s is put off to %s, the next is at %s and the jitter %s", at, due, following, spec.Jitter)
			}
			at = following
		}
	})
	spec := Spec{Cron: "0 0 * * *", Jitter: Duration(time.Hour)}
	times, _ := spec.compile()
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	if times.due("a", at).Equal(times.due("b", at)) {
		t.Error("two schedules have the same jitter")
	}
}

func TestAnInvalidScheduleSaysEverythingThatIsWrong(t *testing.T) {
	err := Schedule{
		ID: "No", When: Spec{Zone: "Mars/Olympus", Jitter: -1}, Do: Action{Command: "x", Data: []byte("{"), TimeField: "at"},
		Overlap: "maybe", CatchUp: CatchUp{Policy: "never", Window: -1}, Limit: -1,
	}.Validate()
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{`id "No"`, "neither cron nor every", "Mars/Olympus", "when.jitter", "do.command", "do.data", `overlap "maybe"`, "catch_up.policy", "catch_up.window", "limit"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("it does not say %q:\n%v", part, err)
		}
	}
	for name, spec := range map[string]Spec{
		"30 February":              {Cron: "0 0 30 2 *"},
		"no expression":            {Cron: "now and then"},
		"seconds":                  {Cron: "0 0 0 1 1 *"},
		"a zone in the expression": {Cron: "TZ=Europe/Berlin 0 0 * * *"},
		"@every":                   {Cron: "@every 1h"},
		"too short":                {Every: Duration(time.Millisecond)},
		"both":                     {Cron: "0 0 * * *", Every: Duration(time.Hour)},
		"the machine's zone":       {Cron: "0 0 * * *", Zone: "Local"},
		"a zone for an interval":   {Every: Duration(time.Hour), Zone: "Europe/Berlin"},
		"end before start":         {Every: Duration(time.Hour), Start: time.Unix(1e9, 0), End: time.Unix(1e9, 0)},
		"too long an expression":   {Cron: strings.Repeat("0,", 200) + "0 0 * * *"},
	} {
		if _, err := spec.Next(time.Unix(1e9, 0), 1); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// FuzzCron looks for expressions that make the library panic, loop or go back.
func FuzzCron(f *testing.F) {
	for _, seed := range []string{"*/5 * * * *", "0 0 L * *", "0 0 15W * ?", "0 22-2 * * FRI#L", "@yearly", "0 0 LW 2 MON#5", "59 23 31 12 7"} {
		f.Add(seed)
	}
	after := time.Date(2026, 3, 7, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, expression string) {
		times, err := Spec{Cron: expression, Zone: "America/New_York"}.Next(after, 5)
		if err != nil {
			return
		}
		last := after
		for _, at := range times {
			if !at.After(last) {
				t.Fatalf("%q fires at %s after %s", expression, at, last)
			}
			last = at
		}
	})
}
