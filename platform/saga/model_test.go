package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// TestEngineFollowsTheModel feeds three engines, each of which remembers sagas as it
// last saw them, random batches, timers and orders of operators, and compares what is
// stored, sent, told and written in the histories with a model. The third engine has
// mishaps: its questions to the database or their answers are lost, or one of the
// others is faster between its reading and its writing.
func TestEngineFollowsTheModel(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue { // each takes a quarter of a second
		if err := checks.Value.Set("15"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	// A clock of its own in front of the database's.
	params := maps.Clone(saga.SessionParams())
	params["search_path"] = "public, pg_catalog"
	b := newBenchOn(t, database(t, params), guided())
	b.exec("create table ahead (of_time interval not null)")
	b.exec("insert into ahead values (interval '0')")
	b.exec(`create function public.clock_timestamp() returns timestamptz language sql volatile
		as 'select pg_catalog.clock_timestamp() + of_time from public.ahead'`)
	trouble := &mishap{}
	pool := b.wire(trouble)
	unlucky := func() *saga.Engine {
		e, err := saga.NewEngine(pool, saga.EngineConfig{Logger: slog.New(slog.DiscardHandler)}, guided())
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	rapid.Check(t, func(rt *rapid.T) {
		b.exec("truncate saga, saga_log, saga_live, outbox")
		b.exec("update ahead set of_time = interval '0'")
		a := &arena{rt: rt, b: b, trouble: trouble, unlucky: unlucky, now: time.Minute, began: time.Now(), ids: ids(3), models: make(map[string]*model)}
		a.engines = []*saga.Engine{b.another(guided()), b.another(guided()), unlucky()}
		for _, id := range a.ids {
			a.models[id] = &model{id: id}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"batch":   func(rt *rapid.T) { a.play(rt, a.batch(rt)) },
			"order":   func(rt *rapid.T) { a.play(rt, a.order(rt)) },
			"order 2": func(rt *rapid.T) { a.play(rt, a.order(rt)) }, // there are many of them
			"signal":  func(rt *rapid.T) { a.play(rt, a.signal(rt)) },
			"time": func(rt *rapid.T) {
				// No sum of these comes close before a time at which something is due.
				d := rapid.SampledFrom([]time.Duration{7 * time.Minute, 61 * time.Minute}).Draw(rt, "passes")
				a.now += d
				b.exec("update ahead set of_time = of_time + $1", d)
				for _, e := range a.engines {
					e.ForgetClock()
				}
				a.play(rt, a.timers())
			},
			"bulk":    a.bulk,
			"preview": a.preview,
			"restart": func(rt *rapid.T) {
				a.engines[rapid.IntRange(0, 1).Draw(rt, "engine")] = b.another(guided())
				a.engines[2] = unlucky()
			},
			"": func(rt *rapid.T) {
				sent := a.sent()
				for _, id := range a.ids {
					a.compare(rt, a.models[id], sent[id])
				}
			},
		})
	})
}

// arena is the sagas of one check, and the models that they should follow.
type arena struct {
	rt      *rapid.T
	b       *bench
	trouble *mishap
	unlucky func() *saga.Engine
	engines []*saga.Engine
	now     time.Duration // since the check began, but for the time that it takes
	began   time.Time
	ids     []string
	models  map[string]*model
	count   int
	wrong   string // what was found where the test cannot be ended
}

// act is something that an engine does. It marks the write by which it is done, tells
// the model, and is done again when its answer is lost unless the engine sees to that.
type act struct {
	mark  string
	do    func(e *saga.Engine) (lost bool)
	model func()
	batch bool // one at a time
	again bool // the engine sees to it
}

func (a *arena) wrongf(format string, args ...any) {
	if a.wrong == "" {
		a.wrong = fmt.Sprintf(format, args...)
	}
}

// play has an engine act, with a mishap on the way if it is the third.
func (a *arena) play(rt *rapid.T, act act) {
	which := rapid.IntRange(0, 3).Draw(rt, "engine")
	if which < 2 {
		act.do(a.engines[which])
		act.model()
	} else {
		a.mishap(rt, act)
	}
	if a.wrong != "" {
		rt.Fatal(a.wrong)
	}
}

func (a *arena) mishap(rt *rapid.T, act act) {
	e := a.engines[2]
	kind := rapid.SampledFrom([]string{"answer lost", "question lost", "overtaken", "overtaken by an order"}).Draw(rt, "mishap")
	var meanwhile func()
	overtaken := strings.HasPrefix(kind, "overtaken")
	if overtaken {
		faster := a.order(rt)
		switch {
		case kind == "overtaken by an order":
		case act.batch:
			faster = a.timers()
		default:
			faster = a.batch(rt)
		}
		by := a.engines[rapid.IntRange(0, 1).Draw(rt, "faster")]
		meanwhile = func() {
			faster.do(by)
			faster.model()
		}
	}
	a.trouble.arm(act.mark, 1, kind == "question lost", meanwhile)
	lost := act.do(e)
	missed := a.trouble.none() && !overtaken && !act.again
	if lost != missed {
		a.wrongf("the engine says that an answer was lost: %v, and it was: %v (%s)", lost, missed, kind)
	}
	if missed {
		if kind == "answer lost" {
			act.model()
		}
		if rapid.Bool().Draw(rt, "crash") {
			a.engines[2] = a.unlucky()
		}
		act.do(a.engines[rapid.IntRange(0, 2).Draw(rt, "rescue")])
	}
	act.model()
}

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
