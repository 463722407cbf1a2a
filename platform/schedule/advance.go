package schedule

import (
	"slices"
	"time"
)

// Bounds of one pass over one schedule. What is left is done in the next pass,
// at once.
const (
	startsMax = 100    // commands of one transaction
	stepsMax  = 10_000 // firings looked at: an interval of a second missed for hours
)

// runningMax bounds what is remembered of sagas that run, which only commands
// triggered by force can make many.
const runningMax = 100

// forgetAfter is when a saga that nobody has heard of is given up: its start
// became a dead letter, or it was deleted after it had ended.
const forgetAfter = 15 * time.Minute

// pass is one decision about one schedule. It does no I/O and knows no clock, so
// the same input always gives the same outcome.
type pass struct {
	*Record
	times   *timetable
	now     time.Time
	fired   map[string]bool // ids of commands that were sent, of schedules with a backfill
	firings []Firing
	budget  int
	delays  []time.Duration // of what was started, behind when it was due
}

// advance decides everything that is due at now. known tells of running sagas
// whether they have ended; one that is not in it is unknown. fired holds the
// commands that a backfill may come upon.
func advance(r *Record, times *timetable, now time.Time, known, fired map[string]bool) *pass {
	p := &pass{Record: r, times: times, now: now, fired: fired, budget: startsMax}
	r.State.UpdatedAt = now
	r.State.settle(now, known)
	p.backfill()
	if r.State.Paused {
		return p
	}
	if !r.State.Waiting.IsZero() && len(r.State.Running) == 0 {
		at := r.State.Waiting
		r.State.Waiting = time.Time{}
		p.start(at, Scheduled, p.State.commandID("at", at), p.Overlap != AllowAll)
	}
	p.scheduled()
	return p
}

// settle forgets sagas that have ended.
func (s *State) settle(now time.Time, known map[string]bool) {
	s.Running = slices.DeleteFunc(s.Running, func(r Running) bool {
		ended, ok := known[r.ID]
		return ended || !ok && now.Sub(r.SentAt) > forgetAfter
	})
}

// scheduled goes through the firings that are due by themselves.
func (p *pass) scheduled() {
	for range stepsMax {
		at := p.State.Next
		if at.IsZero() || p.budget <= 0 {
			return
		}
		if p.limitReached() {
			p.State.Next = time.Time{}
			return
		}
		due := p.times.due(p.State.Origin, at)
		if due.After(p.now) {
			return
		}
		p.State.Next = p.times.next(at)
		late := p.now.Sub(due)
		switch {
		case p.missed(late):
			p.State.Missed++
			p.note(at, Missed)
		case len(p.State.Running) == 0 || p.Overlap == AllowAll:
			p.start(at, Scheduled, p.State.commandID("at", at), p.Overlap != AllowAll)
		case p.Overlap == BufferOne && p.State.Waiting.IsZero():
			p.State.Waiting = at
		default:
			p.State.Skipped++
			p.note(at, Skipped)
		}
	}
}

// missed says whether a firing that is that late does not happen any more. The
// next one is known already.
func (p *pass) missed(late time.Duration) bool {
	if late > time.Duration(p.CatchUp.Window) || p.CatchUp.Policy == None && late > lateMax {
		return true
	}
	if p.CatchUp.Policy == All || p.State.Next.IsZero() {
		return false
	}
	return !p.times.due(p.State.Origin, p.State.Next).After(p.now)
}

func (p *pass) limitReached() bool {
	n := p.State.Scheduled
	if !p.State.Waiting.IsZero() {
		n++
	}
	return p.Limit > 0 && n >= p.Limit
}

// backfill works on the first backfill that is not finished.
func (p *pass) backfill() {
	for len(p.State.Backfills) > 0 {
		b := &p.State.Backfills[0]
		at := p.times.next(b.From.Add(-1))
		if at.IsZero() || !at.Before(b.To) {
			p.State.Backfills = slices.Delete(p.State.Backfills, 0, 1)
			continue
		}
		if p.budget == 0 || b.OneByOne && len(p.State.Running) > 0 {
			return
		}
		b.From = at.Add(1)
		if id := p.State.commandID("at"+b.Salt, at); !p.fired[id] {
			p.start(at, Backfilled, id, p.Overlap != AllowAll || b.OneByOne)
		}
	}
}

// start sends the command of a firing. await says whether something will ask
// for the end of its saga.
func (p *pass) start(at time.Time, kind Kind, id string, await bool) {
	p.budget--
	p.State.Started++
	if kind == Scheduled {
		p.State.Scheduled++
		p.delays = append(p.delays, p.now.Sub(p.times.due(p.State.Origin, at)))
	}
	p.firings = append(p.firings, Firing{ID: id, At: at, Kind: kind, Outcome: Started, Count: 1, DecidedAt: p.now})
	if !await {
		return
	}
	if len(p.State.Running) == runningMax {
		p.State.Running = slices.Delete(p.State.Running, 0, 1)
	}
	p.State.Running = append(p.State.Running, Running{id, p.now})
}

// note records a firing that does not happen, together with those just before it
// that do not happen for the same reason.
func (p *pass) note(at time.Time, outcome Outcome) {
	if n := len(p.firings); n > 0 && p.firings[n-1].Outcome == outcome {
		p.firings[n-1].Count++
		return
	}
	p.firings = append(p.firings, Firing{
		ID: p.State.commandID(string(outcome), at), At: at, Kind: Scheduled, Outcome: outcome, Count: 1, DecidedAt: p.now,
	})
}

// due returns when the schedule is to be looked at again by itself; zero when
// only an operator can make it do something. poll is how often running sagas are
// asked for.
func (p *pass) due(poll time.Duration) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	s := &p.State
	if len(s.Backfills) > 0 {
		if s.Backfills[0].OneByOne && len(s.Running) > 0 {
			sooner(p.now.Add(poll))
		} else {
			sooner(p.now)
		}
	}
	if s.Paused {
		return at
	}
	if !s.Waiting.IsZero() {
		sooner(p.now.Add(poll))
	}
	if !s.Next.IsZero() {
		sooner(p.times.due(s.Origin, s.Next))
	}
	return at
}
