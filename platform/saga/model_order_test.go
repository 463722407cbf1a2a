package saga_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/countermand/countermand/platform/saga"
)

// order is what an operator wants of a saga.
func (a *arena) order(rt *rapid.T) act {
	m := a.drawn(rt)
	a.count++
	o := a.command(rt, m)
	when := a.condition(rt, m)
	return a.tell(m, when, o.Reason, func(e *saga.Engine) (saga.Told, error) {
		return e.Order(a.b.t.Context(), m.id, o, when)
	}, func(m *model) string { return m.order(a.now, o, when.Revision) })
}

// command is an order that likely makes sense.
func (a *arena) command(rt *rapid.T, m *model) saga.Order {
	o := saga.Order{Verb: rapid.SampledFrom(append(saga.Verbs(), saga.RetryNow, saga.Skip, saga.Complete, saga.Resume, "dance")).Draw(rt, "verb")}
	if o.Verb == saga.Abandon && rapid.IntRange(0, 2).Draw(rt, "really") > 0 {
		o.Verb = saga.Pause
	}
	o.By = rapid.SampledFrom([]string{"ada", "ada", "ada", "eve", "eve", ""}).Draw(rt, "by")
	o.Reason = fmt.Sprintf("reason %d.", a.count)
	if o.Verb == saga.RetryNow || o.Verb == saga.Skip || o.Verb == saga.Complete {
		names := []string{"alpha", "beta", "review", "omega", "nothing", ""}
		for _, s := range m.waiting() {
			names = append(names, s.name, s.name, s.name)
		}
		o.Step = rapid.SampledFrom(names).Draw(rt, "step")
	}
	if o.Verb == saga.Complete {
		o.Data = a.data(rt, ticket{a.count})
	}
	if o.Verb == saga.Edit {
		o.Data = a.data(rt, trip{ID: "edited", Tickets: []int{a.count}})
	}
	return o
}

func (a *arena) data(rt *rapid.T, good any) json.RawMessage {
	return rapid.SampledFrom([]json.RawMessage{encode(a.b.t, good), encode(a.b.t, good), encode(a.b.t, good), []byte(`"x"`), []byte(`{`)}).Draw(rt, "data")
}

func (a *arena) condition(rt *rapid.T, m *model) (when saga.Condition) {
	switch rapid.IntRange(0, 5).Draw(rt, "revision") {
	case 0:
		when.Revision = m.revision + 1
	case 1:
		when.Revision = max(m.revision-1, 0)
	case 2, 3:
		when.Revision = m.revision
	}
	when.DryRun = rapid.IntRange(0, 4).Draw(rt, "dry") == 0
	return when
}

// signal is a fact that an operator tells a saga.
func (a *arena) signal(rt *rapid.T) act {
	m := a.drawn(rt)
	a.count++
	f, when := a.fact(rt, a.count), a.condition(rt, m)
	o := saga.Order{Reason: fmt.Sprintf("reason %d.", a.count), Data: a.data(rt, ticket{f.number})}
	o.By = rapid.SampledFrom([]string{"ada", "eve", "eve", ""}).Draw(rt, "by")
	o.Step = rapid.SampledFrom([]string{"review", "review", verdict.Type(), "alpha", "test.other.happened.v1", ""}).Draw(rt, "fact of")
	return a.tell(m, when, o.Reason, func(e *saga.Engine) (saga.Told, error) {
		return e.Signal(a.b.t.Context(), m.id, f.id, o, when)
	}, func(m *model) string { return m.told(a.now, o, f, when.Revision) })
}

// tell gives an order, and compares what the engine tells with what the model does.
func (a *arena) tell(m *model, when saga.Condition, mark string, do func(*saga.Engine) (saga.Told, error), obey func(*model) string) act {
	var (
		told saga.Told
		err  error
	)
	return act{
		mark: mark, again: true,
		do: func(e *saga.Engine) bool {
			told, err = do(e)
			return false
		},
		model: func() {
			of := m
			if when.DryRun {
				of = m.clone()
			}
			had := len(of.sent)
			if want := obey(of); want != "" {
				if refused, ok := errors.AsType[*saga.OrderError](err); !ok || refused.Code != want || refused.Message == "" {
					a.wrongf("the order is answered by %v, want it refused with %s", err, want)
				}
				return
			}
			switch got := sends(told.Sends); {
			case err != nil:
				a.wrongf("the order is answered by %v, want it obeyed", err)
			case told.Revision != of.revision || told.Saga.Status != of.status || !slices.Equal(got, of.sent[had:]):
				a.wrongf("told %s at %d that sends %q, want %s at %d and %q", told.Saga.Status, told.Revision, got, of.status, of.revision, of.sent[had:])
			}
		},
	}
}

// sends are messages as the model has them.
func sends(planned []saga.Planned) (all []string) {
	for i := range planned {
		p := &planned[i]
		text := strings.TrimSuffix(strings.TrimPrefix(p.Type, "test."), ".v1")
		if p.InDoubt {
			text += "?"
		}
		if p.Step != "" {
			text += " " + p.ID
		}
		all = append(all, text)
	}
	return all
}

// bulk gives one order to all sagas of a status.
func (a *arena) bulk(rt *rapid.T) {
	a.count++
	bulk := saga.Bulk{Order: a.command(rt, &model{}), Rate: 1e6, DryRun: rapid.Bool().Draw(rt, "dry")}
	bulk.Filter.Status = rapid.SampledFrom([]saga.Status{"", saga.Running, saga.Compensating, saga.Stuck}).Draw(rt, "status")
	selected := 0
	for _, m := range a.models {
		if m.status != "" && (bulk.Filter.Status == "" || m.status == bulk.Filter.Status) {
			selected++
		}
	}
	bulk.Expected = selected + rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(rt, "miscounted")
	told := 0
	count, err := a.engines[rapid.IntRange(0, 1).Draw(rt, "engine")].Bulk(a.b.t.Context(), bulk, func(n int) {
		if n != selected {
			rt.Fatalf("%d sagas are selected, want %d", n, selected)
		}
	}, func(item saga.BulkItem) {
		told++
		m := a.models[item.ID]
		if bulk.DryRun {
			m = m.clone()
		}
		code := m.order(a.now, bulk.Order, 0)
		switch {
		case code == "" && (item.Outcome != saga.BulkDone || item.Revision != m.revision || item.Status != m.status),
			code != "" && (item.Outcome != saga.BulkRefused || item.Code != code):
			rt.Fatalf("told %+v, want the code %q and %s at %d", item, code, m.status, m.revision)
		}
	})
	want := ""
	switch {
	case bulk.Order.By == "":
		want = "reason_required"
	case bulk.Expected != selected && !bulk.DryRun:
		want = "count_differs"
	}
	if want != "" {
		if refused, ok := errors.AsType[*saga.OrderError](err); !ok || refused.Code != want || told > 0 {
			rt.Fatalf("bulk: %v after %d sagas, want it refused with %s", err, told, want)
		}
	} else if err != nil || told != selected || count.Done+count.Refused != selected {
		rt.Fatalf("bulk: %+v, %v after %d sagas of %d", count, err, told, selected)
	}
}

// preview asks what compensation would send.
func (a *arena) preview(rt *rapid.T) {
	m := a.drawn(rt)
	got, err := a.engines[rapid.IntRange(0, 1).Draw(rt, "engine")].Preview(a.b.t.Context(), m.id)
	want, refused := m.preview(a.now)
	if refused != "" {
		if e, ok := errors.AsType[*saga.OrderError](err); !ok || e.Code != refused {
			rt.Fatalf("the preview is answered by %v, want it refused with %s", err, refused)
		}
		return
	}
	if err != nil || got.Revision != m.revision || got.Status != m.status || got.Ends != saga.Compensated || !slices.Equal(sends(got.Sends), want) {
		rt.Fatalf("preview %+v, %v, want %q", got, err, want)
	}
}
