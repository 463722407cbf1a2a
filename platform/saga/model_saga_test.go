package saga_test

import (
	"slices"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

var doOmega = events.NewCommand[booking, ticket]("test.omega.do.v1", "full")

// guided is the saga of the model: alpha, then beta and gamma beside a review, then
// the pivot delta, then omega.
func guided() saga.Definition[trip] {
	patient := func(s saga.Step[trip]) saga.Step[trip] {
		s.Timeout, s.Retry = patienceOf, saga.Retry{Min: pauseOf, Max: pauseOf}
		return s
	}
	d := define()
	d.Flow = saga.Sequence[trip]{
		patient(alpha()),
		saga.Parallel[trip]{Branches: []saga.Node[trip]{
			patient(beta()), patient(gamma()),
			saga.Await[trip]{
				Name: "review", Timeout: patienceOf, TimeoutCode: "undecided",
				For: saga.Signal(verdict, func(s *trip, d struct{ Number int }) { s.Tickets = append(s.Tickets, d.Number) }),
			},
		}},
		patient(pivot(delta())),
		patient(saga.Step[trip]{Name: "omega", Do: call("omega", doOmega)}),
	}
	return d
}

// How long things take, none of which is due by itself while a test runs.
const (
	pauseOf     = time.Hour
	patienceOf  = 150 * time.Minute
	undoTimeout = 5 * time.Minute
)

var stages = [][]string{{"alpha"}, {"beta", "gamma", "review"}, {"delta"}, {"omega"}}

// model is what a saga of guided should be.
type model struct {
	id                        string
	status                    saga.Status // "" before it began
	backward, pivoted, paused bool
	steps                     []*modelStep
	tickets                   []int
	signals, taken            []fact
	failure                   events.Code
	armed, began              time.Duration // when its timer fires, or 0 for never
	fresh                     bool          // it has never been written
	revision                  int64
	sent, history             []string
}

type modelStep struct {
	name             string
	status           saga.StepStatus
	round, undoRound int
	again, until     time.Duration // it is asked again, and given up; 0 for never
	doubtful         bool          // nobody knew whether it was done when its undo was sent
	trouble          events.Code
}

type fact struct {
	id     string
	number int
}

func (m *model) clone() *model {
	c := *m
	c.steps = nil
	for _, s := range m.steps {
		one := *s
		c.steps = append(c.steps, &one)
	}
	c.tickets, c.signals, c.taken = slices.Clone(m.tickets), slices.Clone(m.signals), slices.Clone(m.taken)
	c.sent, c.history = slices.Clone(m.sent), slices.Clone(m.history)
	return &c
}

func (m *model) step(name string) *modelStep {
	for _, s := range m.steps {
		if s.name == name {
			return s
		}
	}
	return nil
}

// awaits reports whether something is to come for the step, in that direction.
func (s *modelStep) awaits(undo bool) bool {
	return s != nil && (s.status == saga.StepRunning && !undo || s.status == saga.StepCompensating && undo)
}

// waiting are the steps that count, going where the saga goes.
func (m *model) waiting() (all []*modelStep) {
	for _, s := range m.steps {
		if s.awaits(m.backward) && !m.status.Final() {
			all = append(all, s)
		}
	}
	return all
}

func (s *modelStep) settled(status saga.StepStatus) {
	s.status, s.again, s.until, s.trouble = status, 0, 0, ""
}

// commandID of what the step waits for.
func (m *model) commandID(s *modelStep, undo bool) string {
	record := saga.StepRecord{Name: s.name, Round: s.round, UndoRound: s.undoRound}
	if undo {
		return record.UndoID(m.id)
	}
	return record.DoID(m.id)
}

// send issues the command of a step, the first time or again.
func (m *model) send(s *modelStep, now time.Duration) {
	s.again = now + pauseOf
	undo := s.status == saga.StepCompensating
	verb := ".do "
	switch {
	case undo && s.doubtful:
		verb = ".undo? "
	case undo:
		verb = ".undo "
	}
	m.sent = append(m.sent, s.name+verb+m.commandID(s, undo))
}

// change takes in what do says, and goes on from there.
func (m *model) change(now time.Duration, cause string, do func()) {
	from := m.status
	do()
	if !m.paused && !m.status.Final() {
		if !m.backward {
			m.forward(now)
		} else {
			m.back(now)
		}
	}
	if !m.status.Final() {
		m.status = saga.Running
		if m.backward {
			m.status = saga.Compensating
		}
		if slices.ContainsFunc(m.waiting(), func(s *modelStep) bool { return s.trouble != "" }) {
			m.status = saga.Stuck
		}
	}
	m.revision++
	m.history = append(m.history, cause)
	if m.status != from && (m.status.Final() || m.status == saga.Stuck) {
		m.sent = append(m.sent, "trip."+string(m.status))
	}
}

func (m *model) forward(now time.Duration) {
	for _, stage := range stages {
		open := false
		for _, name := range stage {
			s := m.step(name)
			if s == nil {
				s = &modelStep{name: name, status: saga.StepRunning, until: now + patienceOf}
				m.steps = append(m.steps, s)
				m.pivoted = m.pivoted || name == "delta"
				if name != "review" {
					m.send(s, now)
				}
			}
			if name == "review" && s.status == saga.StepRunning && len(m.signals) > 0 {
				m.taken = append(m.taken, m.signals[0])
				m.yes(s, m.signals[0].number)
				m.signals = m.signals[1:]
			}
			open = open || s.status != saga.StepDone
		}
		if open {
			return
		}
	}
	m.end(saga.Completed)
}

func (m *model) back(now time.Duration) {
	for _, stage := range slices.Backward(stages) {
		open := false
		for _, name := range slices.Backward(stage) {
			s := m.step(name)
			switch {
			case s == nil:
			case name == "review":
				if s.status == saga.StepRunning {
					s.settled(saga.StepCancelled)
				}
			case s.status == saga.StepDone, s.status == saga.StepRunning, s.status == saga.StepTimedOut:
				s.doubtful = s.status != saga.StepDone
				s.settled(saga.StepCompensating)
				s.until = now + undoTimeout
				m.send(s, now)
				open = true
			default:
				open = open || s.status == saga.StepCompensating
			}
		}
		if open {
			return
		}
	}
	m.end(saga.Compensated)
}

func (m *model) end(status saga.Status) { m.status, m.signals = status, nil }

func (m *model) turn(code events.Code) {
	if m.backward = true; m.failure == "" {
		m.failure = code
	}
}

func (m *model) start(now time.Duration) {
	if m.status == "" {
		m.began, m.fresh = now, true
		m.change(now, "start", func() {})
	}
}

// answer is a reply, which may come late, twice, or to a command of another round.
type answer struct {
	step             string
	undo, rejected   bool
	round, undoRound int
	number           int
}

func (m *model) reply(now time.Duration, a answer) {
	s := m.step(a.step)
	if m.status.Final() || !s.awaits(a.undo) || s.round != a.round || a.undo && s.undoRound != a.undoRound {
		return
	}
	switch {
	case a.rejected && (a.undo || m.pivoted && a.step != "delta"):
		if s.again == 0 {
			return // it was refused before
		}
		m.change(now, "reply", func() { s.again, s.until, s.trouble = 0, 0, "full" })
	case a.rejected:
		m.change(now, "reply", func() {
			m.pivoted = false
			s.settled(saga.StepRejected)
			m.turn("full")
		})
	default:
		m.change(now, "reply", func() { m.yes(s, a.number) })
	}
}

// yes is the good answer that a step waits for, with what it adds to the state.
func (m *model) yes(s *modelStep, tickets ...int) {
	if s.status == saga.StepCompensating {
		s.settled(saga.StepCompensated)
		return
	}
	m.tickets = append(m.tickets, tickets...)
	s.settled(saga.StepDone)
}

func (m *model) signal(now time.Duration, cause string, f fact) {
	known := func(other fact) bool { return other.id == f.id }
	if m.status != "" && !m.status.Final() && !m.backward && !slices.ContainsFunc(m.signals, known) && !slices.ContainsFunc(m.taken, known) {
		m.change(now, cause, func() { m.signals = append(m.signals, f) })
	}
}

// fire is the timer of the saga, which may be early.
func (m *model) fire(now time.Duration) {
	if m.status == "" || m.status.Final() || m.armed == 0 || now < m.armed {
		return
	}
	m.change(now, "timer", func() {
		if m.paused {
			return
		}
		for _, s := range m.steps {
			due := s.again
			if due == 0 || s.until > 0 && s.until < due {
				due = s.until
			}
			if !s.awaits(m.backward) || due == 0 || now < due {
				continue
			}
			over := s.until > 0 && now >= s.until
			switch {
			case over && s.name == "review":
				s.settled(saga.StepTimedOut)
				m.turn("undecided")
			case over && !m.backward && !m.pivoted:
				s.settled(saga.StepTimedOut)
				m.turn("timeout")
			default:
				if over {
					s.until, s.trouble = 0, "no_answer"
				}
				m.send(s, now)
			}
		}
	})
	m.rearm(true)
}

// rearm sets the timer, which is moved when it would be late, or has fired.
func (m *model) rearm(fired bool) {
	var due time.Duration
	for _, s := range m.waiting() {
		for _, at := range []time.Duration{s.again, s.until} {
			if at > 0 && !m.paused && (due == 0 || at < due) {
				due = at
			}
		}
	}
	switch early := m.began + pauseOf; {
	case m.fresh && due > early:
		m.armed = early // so that no later step has to move it
	case m.fresh, fired, due > 0 && (m.armed == 0 || due < m.armed):
		m.armed = due
	}
	m.fresh = false
}
