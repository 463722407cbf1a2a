package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Spec says when a schedule fires. Either Cron or Every is set.
type Spec struct {
	// Cron is an expression of five fields: minute, hour, day of month, month, day
	// of week, with names, lists, ranges and steps, or @hourly, @daily, @weekly,
	// @monthly, @yearly. When both day fields are restricted, either may match, as
	// in crontab(5). L is the last day of a month, 15W the weekday nearest to the
	// 15th, FRI#2 the second Friday, FRI#L the last.
	Cron string `json:"cron,omitempty"`
	// Zone is the IANA name of the time zone of Cron, such as Europe/Berlin; UTC
	// when empty.
	Zone string `json:"zone,omitempty"`
	// Every fires at whole multiples of an interval, counted from Start or, without
	// one, from 1970: every 6h fires at 0, 6, 12 and 18 o'clock UTC. At least 1 s.
	Every Duration `json:"every,omitempty"`
	// Start and End bound the firings: the first is at Start or later, the last
	// before End. Zero means no bound.
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
	// Jitter puts each firing off by up to so much, never past the next one. How
	// much derives from the schedule and the firing, so it is the same whoever asks.
	Jitter Duration `json:"jitter,omitempty"`
}

// Duration is a time.Duration that is text in JSON, such as "1h30m".
type Duration time.Duration

// String returns d as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: want a number with a unit, such as 90s or 1h30m", text)
	}
	*d = Duration(parsed)
	return nil
}

// everyMin is the shortest interval. Schedulers look once a second.
const everyMin = Duration(time.Second)

// nextMax bounds what [Spec.Next] returns.
const nextMax = 1000

// Next returns the nominal times of the next n firings after that instant, in
// the schedule's zone, at most 1,000, and fewer when there are no more. It fails
// on a spec that [Schedule.Validate] refuses.
func (s Spec) Next(after time.Time, n int) ([]time.Time, error) {
	t, err := s.compile()
	if err != nil {
		return nil, err
	}
	var times []time.Time
	for range min(n, nextMax) {
		after = t.next(after)
		if after.IsZero() {
			break
		}
		times = append(times, after.In(t.zone))
	}
	return times, nil
}

// timetable is a compiled Spec.
type timetable struct {
	spec Spec
	zone *time.Location
	cron *calendar // nil: an interval
}

func (s Spec) compile() (*timetable, error) {
	t := &timetable{spec: s, zone: time.UTC}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case s.Cron == "" && s.Every == 0:
		fail("when: neither cron nor every is set; want one of them")
	case s.Cron != "" && s.Every != 0:
		fail("when: both cron and every are set; want one of them")
	case s.Cron != "":
		var err error
		if t.cron, err = parseCron(s.Cron); err != nil {
			errs = append(errs, err)
		}
	case s.Every < everyMin:
		fail("when.every is %s; want at least %s", s.Every, everyMin)
	}
	if s.Zone != "" {
		zone, err := time.LoadLocation(s.Zone)
		switch {
		case err != nil || s.Zone == "Local": // what Local means depends on the machine
			fail("when.zone %q is unknown; want an IANA name such as Europe/Berlin", s.Zone)
		case s.Cron == "":
			fail("when.zone has no meaning for every; leave it out")
		default:
			t.zone = zone
		}
	}
	if !s.Start.IsZero() && !s.End.IsZero() && !s.End.After(s.Start) {
		fail("when.end is not after when.start")
	}
	bound := func(name string, at time.Time) {
		if !at.IsZero() && (at.Year() < 1970 || at.Year() > yearMax) {
			fail("%s is in the year %d; want 1970 to %d", name, at.Year(), yearMax)
		}
	}
	bound("when.start", s.Start)
	bound("when.end", s.End)
	if s.Jitter < 0 || s.Jitter > jitterMax {
		fail("when.jitter is %s; want 0 to %s", s.Jitter, jitterMax)
	}
	return t, errors.Join(errs...)
}

const (
	yearMax   = 2200
	jitterMax = Duration(24 * time.Hour)
)

// next returns the nominal time of the first firing after that instant; zero when
// there is none.
func (t *timetable) next(after time.Time) time.Time {
	if !t.spec.Start.IsZero() && after.Before(t.spec.Start) {
		after = t.spec.Start.Add(-1)
	}
	var at time.Time
	if t.cron != nil {
		at = t.cron.next(after, t.zone)
	} else {
		at = t.interval(after)
	}
	if !t.spec.End.IsZero() && !at.Before(t.spec.End) || at.Year() > yearMax {
		return time.Time{}
	}
	return at.UTC()
}

// interval returns the first multiple of the interval after that instant.
func (t *timetable) interval(after time.Time) time.Time {
	anchor, every := t.spec.Start, time.Duration(t.spec.Every)
	if anchor.IsZero() {
		anchor = time.Unix(0, 0)
	}
	since := after.Sub(anchor)
	if since < 0 {
		return anchor
	}
	return anchor.Add(since - since%every + every)
}

// due returns when the firing at a nominal time is to be acted upon.
func (t *timetable) due(salt string, at time.Time) time.Time {
	span := time.Duration(t.spec.Jitter)
	if span == 0 || at.IsZero() {
		return at
	}
	if following := t.next(at); !following.IsZero() {
		span = min(span, following.Sub(at))
	}
	sum := sha256.Sum256([]byte(salt + "\x00" + at.UTC().Format(time.RFC3339Nano)))
	return at.Add(time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(span)))
}
