package saga_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

// order does what an operator wants, or says with which code that is refused.
func (m *model) order(now time.Duration, o saga.Order, revision int64) (refused string) {
	if len(o.Data) > 0 && !json.Valid(o.Data) {
		return "invalid_data"
	}
	if code := m.addressed(revision); code != "" {
		return code
	}
	s := m.step(o.Step)
	var do func()
	switch {
	case m.status.Final():
		return "saga_ended"
	case o.Verb != saga.Cancel && (o.By == "" || o.Reason == ""):
		return "reason_required"
	case o.Verb == saga.Cancel || o.Verb == saga.Compensate:
		if m.pivoted {
			return "past_pivot"
		}
		if m.backward {
			return "already_compensating"
		}
		do = func() {
			m.paused = false
			if m.turn("cancelled"); o.Verb == saga.Compensate {
				m.failure = "compensated_by_operator"
			}
		}
	case o.Verb == saga.Pause:
		if m.paused {
			return "already_paused"
		}
		do = func() { m.paused = true }
	case o.Verb == saga.Resume:
		if !m.paused {
			return "not_paused"
		}
		do = func() { m.paused = false; m.refresh(now, "") }
	case o.Verb == saga.RetryNow:
		if o.Step != "" && s == nil {
			return "step_not_found"
		}
		asked := slices.ContainsFunc(m.waiting(), func(s *modelStep) bool { return s.name != "review" && (o.Step == "" || s.name == o.Step) })
		troubled := slices.ContainsFunc(m.waiting(), func(s *modelStep) bool { return s.trouble != "" })
		if o.Step != "" && !s.awaits(false) && !s.awaits(true) || !asked && !troubled {
			return "step_not_waiting"
		}
		do = func() { m.paused = false; m.refresh(now, o.Step) }
	case o.Verb == saga.Skip || o.Verb == saga.Complete:
		if s == nil {
			return "step_not_found"
		}
		if !s.awaits(false) && !s.awaits(true) {
			return "step_not_waiting"
		}
		var reply ticket
		if o.Verb == saga.Complete && s.awaits(false) && json.Unmarshal(o.Data, &reply) != nil {
			return "invalid_data"
		}
		do = func() { m.yes(s, reply.Number) }
		if o.Verb == saga.Skip {
			do = func() { m.yes(s) }
		}
	case o.Verb == saga.Edit:
		var state trip
		if json.Unmarshal(o.Data, &state) != nil {
			return "invalid_data"
		}
		do = func() { m.tickets = state.Tickets }
	case o.Verb == saga.Abandon:
		do = func() {
			m.failure = "abandoned"
			m.end(saga.Abandoned)
		}
	default:
		return "invalid_verb"
	}
	m.change(now, "order "+orderly(&o), do)
	m.rearm(false)
	return ""
}

// addressed looks whether the saga is there, and as it was seen.
func (m *model) addressed(revision int64) (refused string) {
	switch {
	case m.status == "":
		return "saga_not_found"
	case revision > 0 && revision != m.revision:
		return "revision_moved"
	}
	return ""
}

// refresh asks again what is awaited, or what is named of it.
func (m *model) refresh(now time.Duration, step string) {
	for _, s := range m.waiting() {
		if step != "" && s.name != step {
			continue
		}
		refused := s.again == 0
		s.until = now + patienceOf
		if m.backward {
			s.until = now + undoTimeout
		}
		if s.name == "review" {
			continue
		}
		switch {
		case refused && m.backward:
			s.undoRound++
		case refused:
			s.round++
		}
		s.trouble = ""
		m.send(s, now)
	}
}

// told is [saga.Engine.Signal].
func (m *model) told(now time.Duration, o saga.Order, f fact, revision int64) (refused string) {
	o.Verb = saga.SendSignal
	if o.By == "" || o.Reason == "" {
		return "reason_required"
	}
	if code := m.addressed(revision); code != "" {
		return code
	}
	var payload ticket
	switch {
	case o.Step == "":
		return "step_not_found"
	case o.Step != "review" && o.Step != verdict.Type():
		return "signal_not_awaited"
	case m.status.Final():
		return "saga_ended"
	case m.backward:
		return "already_compensating"
	case json.Unmarshal(o.Data, &payload) != nil:
		return "invalid_data"
	}
	m.signal(now, "signal "+orderly(&o), fact{f.id, payload.Number})
	m.rearm(false)
	return ""
}

// preview is what compensation would send.
func (m *model) preview(now time.Duration) (sends []string, refused string) {
	c := m.clone()
	had := len(c.sent)
	if c.backward && !c.status.Final() {
		c.change(now, "resume", func() { c.paused = false })
	} else if refused := c.order(now, by(saga.Compensate), 0); refused != "" {
		return nil, refused
	}
	for len(c.waiting()) > 0 {
		c.change(now, "reply", func() { c.yes(c.waiting()[0]) })
	}
	return slices.DeleteFunc(c.sent[had:], func(s string) bool { return strings.HasPrefix(s, "trip.") }), ""
}

// orderly is an order as the history of the model has it.
func orderly(o *saga.Order) string {
	return fmt.Sprintf("%s %s %s by %s: %s", o.Verb, o.Step, o.Data, o.By, o.Reason)
}
