package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// sent is what the outbox holds, by saga.
func (a *arena) sent() map[string][]string {
	all := make(map[string][]string)
	for _, l := range a.b.outbox() {
		text := strings.TrimSuffix(strings.TrimPrefix(l.Event.Type, "test."), ".v1")
		if l.Topic != events.Outcomes {
			if strings.Contains(string(l.Event.Data), "in doubt") {
				text += "?"
			}
			text += " " + l.Event.ID
		}
		all[l.Event.CorrelationID] = append(all[l.Event.CorrelationID], text)
	}
	return all
}

// compare looks whether a saga is what its model is.
func (a *arena) compare(rt *rapid.T, m *model, sent []string) {
	ctx, reader := context.WithoutCancel(a.b.t.Context()), saga.NewReader(a.b.pool)
	in, revision, err := reader.Get(ctx, m.id)
	if m.status == "" {
		if !errors.Is(err, saga.ErrNotFound) {
			rt.Fatalf("saga %s: %v, and it has not begun", m.id, err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	if in.Status != m.status || revision != m.revision || in.Paused != m.paused || in.Backward != m.backward || in.Pivoted != m.pivoted {
		rt.Fatalf("saga %s is %s at %d, paused %v, backward %v, pivoted %v; want %+v", m.id, in.Status, revision, in.Paused, in.Backward, in.Pivoted, m)
	}
	var steps, want []string
	for i := range in.Steps {
		if r := &in.Steps[i]; r.Status != saga.StepPending {
			steps = append(steps, fmt.Sprintf("%s %s %d %d", r.Name, r.Status, r.Round, r.UndoRound))
		}
	}
	troubles := make(map[saga.Failure]bool)
	for _, s := range m.steps {
		want = append(want, fmt.Sprintf("%s %s %d %d", s.name, s.status, s.round, s.undoRound))
		if s.trouble != "" && s.awaits(m.backward) {
			troubles[saga.Failure{Step: s.name, Code: s.trouble}] = true
		}
	}
	if !slices.Equal(steps, want) {
		rt.Fatalf("saga %s has the steps %q, want %q", m.id, steps, want)
	}
	failure := events.Code("")
	if in.Failure != nil {
		failure = in.Failure.Code
	}
	if failure != m.failure {
		rt.Fatalf("saga %s fails with %q, want %q", m.id, failure, m.failure)
	}
	if in.Trouble != nil && !troubles[saga.Failure{Step: in.Trouble.Step, Code: in.Trouble.Code}] || in.Trouble == nil && m.status == saga.Stuck {
		rt.Fatalf("saga %s is in trouble with %+v, want one of %v", m.id, in.Trouble, troubles)
	}
	var state trip
	if err := json.Unmarshal(in.State, &state); err != nil || !slices.Equal(state.Tickets, m.tickets) || len(in.Signals) != len(m.signals) {
		rt.Fatalf("saga %s has the state %s (%v) and keeps %d signals, want %v and %d", m.id, in.State, err, len(in.Signals), m.tickets, len(m.signals))
	}
	if !slices.Equal(sent, m.sent) {
		rt.Fatalf("saga %s sent\n%q, want\n%q", m.id, sent, m.sent)
	}
	entries, err := reader.History(ctx, m.id) // which checks the chain
	if err != nil {
		rt.Fatal(err)
	}
	var history []string
	for i := range entries {
		what := entries[i].Cause.Kind
		if order := entries[i].Cause.Order; order != nil {
			what += " " + orderly(order)
		}
		history = append(history, what)
	}
	if !slices.Equal(history, m.history) {
		rt.Fatalf("saga %s has the history\n%q, want\n%q", m.id, history, m.history)
	}
	a.compareTimer(rt, m)
}

func (a *arena) compareTimer(rt *rapid.T, m *model) {
	var timers []*time.Time
	err := a.b.pool.QueryRow(a.b.t.Context(), "select coalesce(array_agg(due_at), '{}') from saga_live where saga_id = $1", m.id).Scan(&timers)
	switch {
	case err != nil:
		rt.Fatal(err)
	case len(timers) == 0 && m.status.Final():
	case len(timers) != 1 || m.status.Final() || (timers[0] == nil) != (m.armed == 0):
		rt.Fatalf("saga %s is %s and has the timers %v, want %s", m.id, m.status, timers, m.armed)
	case timers[0] != nil:
		// The model's time stands still while the test runs.
		if late := timers[0].Sub(a.began.Add(m.armed - time.Minute)); late < -time.Second || late > time.Since(a.began)+time.Second {
			rt.Fatalf("saga %s has a timer that is %s too late", m.id, late)
		}
	}
}
