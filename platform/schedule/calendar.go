package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
)

// calendar is a parsed cron expression. The library matches fields; it is only
// ever asked in UTC, because what becomes of the hours that a zone skips or
// repeats is decided here.
type calendar struct {
	fields *cron.SpecSchedule
	// elapsed: the expression names no hours, so it follows the elapsed time and
	// not the clock on the wall.
	elapsed bool
}

var cronParser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow |
	cron.Descriptor | cron.Extended | cron.DowOrDom)

// searchYears is how far ahead a firing is looked for: 29 February 2096 is eight
// years before the next.
const searchYears = 9

// expressionBytesMax bounds a cron expression.
const expressionBytesMax = 200

func parseCron(expression string) (*calendar, error) {
	text := strings.TrimSpace(expression)
	switch {
	case len(text) > expressionBytesMax:
		return nil, fmt.Errorf("when.cron is longer than %d bytes", expressionBytesMax)
	case strings.Contains(text, "="): // TZ= and CRON_TZ=
		return nil, fmt.Errorf("when.cron %q: the time zone belongs into when.zone", text)
	case strings.HasPrefix(text, "@every"):
		return nil, fmt.Errorf("when.cron %q: an interval belongs into when.every", text)
	}
	parsed, err := cronParser.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("when.cron %q: %w; want minute, hour, day of month, month and day of week, such as 30 4 * * MON-FRI", text, err)
	}
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("when.cron %q: want five fields, or one of @hourly, @daily, @weekly, @monthly, @yearly", text)
	}
	fields.Location, fields.MaxSearchYears = time.UTC, searchYears
	c := &calendar{fields: fields, elapsed: text == "@hourly"}
	if words := strings.Fields(text); len(words) == 5 {
		c.elapsed = strings.HasPrefix(words[1], "*")
	}
	if c.fields.Next(time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("when.cron %q: there is no such day", text)
	}
	return c, nil
}

// next returns the first firing after that instant in zone; zero when there is
// none for years.
//
// It goes through the periods of one offset from UTC. Within a period the wall
// clock is UTC plus a constant, so a match on the wall is an instant and nothing
// is skipped or repeated. That happens between periods only.
func (c *calendar) next(after time.Time, zone *time.Location) time.Time {
	horizon := after.AddDate(searchYears, 0, 0)
	for at := after; at.Before(horizon); {
		begin, end := at.In(zone).ZoneBounds()
		_, seconds := at.In(zone).Zone()
		offset := time.Duration(seconds) * time.Second
		from := after // the match is after it
		if !begin.IsZero() && !c.elapsed {
			_, seconds := begin.Add(-1).In(zone).Zone()
			jump := offset - time.Duration(seconds)*time.Second
			switch {
			case jump > 0 && after.Before(begin):
				// The wall jumped from begin-jump to begin, both in the new offset.
				if match := c.match(begin.Add(-jump-1), offset); !match.IsZero() && match.Before(begin) {
					return begin
				}
			case jump < 0 && from.Before(begin.Add(-jump)):
				from = begin.Add(-jump - 1) // until then the wall repeats
			}
		}
		if from.Before(begin) {
			from = begin.Add(-1)
		}
		match := c.match(from, offset)
		switch {
		case !match.IsZero() && (end.IsZero() || match.Before(end)):
			return match
		case end.IsZero():
			return time.Time{}
		}
		at = end
	}
	return time.Time{}
}

// match returns the first match after that instant, on a wall clock of that
// constant offset.
func (c *calendar) match(after time.Time, offset time.Duration) time.Time {
	wall := c.fields.Next(after.UTC().Add(offset))
	if wall.IsZero() {
		return wall
	}
	return wall.Add(-offset)
}
