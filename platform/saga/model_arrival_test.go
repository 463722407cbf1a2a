package saga_test

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// batch is what the broker has for an engine.
func (a *arena) batch(rt *rapid.T) act {
	var (
		deliveries []broker.Delivery
		models     []func()
		begun      = make(map[string]bool)
	)
	for range rapid.IntRange(1, 5).Draw(rt, "size") {
		m := a.drawn(rt)
		a.count++
		id, n, t := m.id, a.count, a.b.t
		kind := "start"
		if m.status != "" || begun[id] {
			kind = rapid.SampledFrom([]string{"answer", "answer", "answer", "answer", "any answer", "start", "cancel", "signal"}).Draw(rt, "input")
		}
		switch kind {
		case "start":
			begun[id] = true
			deliveries = append(deliveries, startOf(t, id))
			models = append(models, func() { m.start(a.now) })
		case "cancel":
			deliveries = append(deliveries, broker.Delivery{Topic: events.Signals, Event: events.Event{
				ID: events.NewID(), Source: "/test", Type: events.CancelType, Time: dawn, CorrelationID: id, PartitionKey: id,
			}})
			models = append(models, func() { m.order(a.now, saga.Order{Verb: saga.Cancel, By: "/test"}, 0) })
		case "signal":
			f := a.fact(rt, n)
			deliveries = append(deliveries, broker.Delivery{Topic: events.Signals, Event: events.Event{
				ID: f.id, Source: "/test", Type: verdict.Type(), Time: dawn, CorrelationID: id, PartitionKey: id, Data: encode(t, ticket{f.number}),
			}})
			models = append(models, func() { m.signal(a.now, "signal", f) })
		default:
			r := a.answer(rt, m, kind == "answer", n)
			deliveries = append(deliveries, a.delivery(m, r))
			models = append(models, func() { m.reply(a.now, r) })
		}
	}
	return act{
		mark: saga.ConsumerName, batch: true,
		do: func(e *saga.Engine) (lost bool) {
			err := a.b.try(a.b.t.Context(), e, deliveries...)
			if lost = errors.Is(err, postgres.ErrCommitUnknown); err != nil && !lost {
				a.wrongf("batch: %v", err)
			}
			return lost
		},
		model: func() {
			for _, model := range models {
				model()
			}
			for _, m := range a.models {
				m.rearm(false)
			}
		},
	}
}

func (a *arena) drawn(rt *rapid.T) *model {
	return a.models[a.ids[rapid.IntRange(0, len(a.ids)-1).Draw(rt, "saga")]]
}

// fact is one that may have been told before.
func (a *arena) fact(rt *rapid.T, n int) fact {
	return fact{fmt.Sprint("fact-", rapid.IntRange(1, 6).Draw(rt, "fact")), n}
}

// answer is one that the saga waits for when it likely is.
func (a *arena) answer(rt *rapid.T, m *model, likely bool, n int) answer {
	r := answer{step: rapid.SampledFrom([]string{"alpha", "beta", "gamma", "delta", "omega"}).Draw(rt, "step"), undo: rapid.Bool().Draw(rt, "undo"), number: n}
	if waiting := slices.DeleteFunc(m.waiting(), func(s *modelStep) bool { return s.name == "review" }); likely && len(waiting) > 0 {
		r.step, r.undo = rapid.SampledFrom(waiting).Draw(rt, "waits").name, m.backward
	}
	if s := m.step(r.step); s != nil {
		r.round, r.undoRound = s.round, s.undoRound
		if old := rapid.IntRange(0, 9).Draw(rt, "old"); old == 0 {
			r.round, r.undoRound = max(r.round-1, 0), max(r.undoRound-1, 0)
		}
	}
	r.rejected = rapid.IntRange(0, 3).Draw(rt, "no") == 0
	return r
}

func (a *arena) delivery(m *model, r answer) broker.Delivery {
	record := saga.StepRecord{Name: r.step, Round: r.round, UndoRound: r.undoRound}
	command := events.Event{ID: record.DoID(m.id), Type: "test." + r.step + ".do.v1", CorrelationID: m.id, PartitionKey: m.id}
	if r.undo {
		command.ID, command.Type = record.UndoID(m.id), "test."+r.step+".undo.v1"
	}
	var rejection *events.Rejection
	if r.rejected {
		rejection = &events.Rejection{Code: "full", Message: "no room"}
	}
	e, err := events.NewReply(&command, "/test", encode(a.b.t, ticket{r.number}), rejection, dawn)
	if err != nil {
		a.b.t.Fatal(err)
	}
	return broker.Delivery{Topic: events.Replies, Event: e}
}

// timers fires those that are due.
func (a *arena) timers() act {
	mark := "none is due"
	for _, m := range a.models {
		if m.status != "" && !m.status.Final() && m.armed > 0 && m.armed <= a.now {
			id := uuid.MustParse(m.id)
			mark = string(id[:])
		}
	}
	return act{
		mark: mark,
		do: func(e *saga.Engine) (lost bool) {
			_, err := e.Fire(a.b.t.Context())
			if saga.IsConflict(err) { // as the loop does
				_, err = e.Fire(a.b.t.Context())
			}
			if lost = errors.Is(err, postgres.ErrCommitUnknown); err != nil && !lost {
				a.wrongf("timers: %v", err)
			}
			return lost
		},
		model: func() {
			for _, m := range a.models {
				m.fire(a.now)
			}
		},
	}
}
