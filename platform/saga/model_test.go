package saga_test

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/saga"
)

// TestEngineFollowsTheModel feeds two engines, each of which remembers sagas as it
// last saw them, random batches, one engine after the other, and compares what is
// stored and sent with a model of a few lines.
func TestEngineFollowsTheModel(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue { // each takes a tenth of a second
		if err := checks.Value.Set("15"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	steps := []saga.Step[trip]{alpha(), beta(), pivot(gamma()), delta()}
	for i := range steps { // no timer is due by itself
		steps[i].Timeout, steps[i].Retry = 2*time.Hour, saga.Retry{Min: time.Hour, Max: time.Hour}
	}
	patient := define(steps...)
	b := newBench(t, patient)
	engines := []*saga.Engine{b.engine, b.another(patient)}
	rapid.Check(t, func(rt *rapid.T) {
		b.exec("delete from outbox")
		all := ids(3)
		models := make(map[string]*model)
		for _, id := range all {
			models[id] = &model{}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"batch": func(rt *rapid.T) {
				var batch []broker.Delivery
				for range rapid.IntRange(1, 6).Draw(rt, "size") {
					id := rapid.SampledFrom(all).Draw(rt, "saga")
					m := models[id]
					if m.status == "" {
						batch = append(batch, startOf(t, id))
						m.start()
						continue
					}
					input := rapid.SampledFrom(append(m.likely(), "start", "cancel", "alpha", "!beta", "-alpha", "!-beta", "delta", "!gamma")).Draw(rt, "input")
					batch = append(batch, m.deliver(t, id, input))
				}
				engine := rapid.IntRange(0, 1).Draw(rt, "engine")
				if err := b.try(t.Context(), engines[engine], batch...); err != nil {
					rt.Fatal(err)
				}
			},
			"timer": func(rt *rapid.T) {
				id := rapid.SampledFrom(all).Draw(rt, "saga")
				m := models[id]
				if m.waits == "" {
					return
				}
				b.exec("update saga_live set due_at = clock_timestamp() where saga_id = $1", id)
				if _, err := engines[rapid.IntRange(0, 1).Draw(rt, "engine")].Fire(t.Context()); err != nil {
					rt.Fatal(err)
				}
				m.revision++ // it fires early and is set anew
			},
			"": func(rt *rapid.T) {
				for _, id := range all {
					models[id].compare(rt, b, id)
				}
			},
		})
	})
}

// model is the standard saga of these tests: alpha, beta, the pivot gamma, delta.
type model struct {
	status   saga.Status
	revision int64
	waits    string   // "beta", or "-beta" for its undo
	refused  bool     // and will not come again
	sent     []string // commands and outcomes
}

var order = []string{"alpha", "beta", "gamma", "delta"}

func (m *model) start() {
	m.status, m.revision = saga.Running, 1
	m.send("alpha")
}

func (m *model) send(command string) {
	m.waits, m.refused = command, false
	if step, back := strings.CutPrefix(command, "-"); back {
		m.status = saga.Compensating
		m.sent = append(m.sent, step+".undo")
		return
	}
	m.status = saga.Running
	m.sent = append(m.sent, command+".do")
}

func (m *model) end(status saga.Status) {
	if status != saga.Stuck {
		m.waits = ""
	}
	m.status = status
	m.sent = append(m.sent, "trip."+string(status))
}

// likely returns the inputs that would change something.
func (m *model) likely() []string {
	if m.waits == "" {
		return nil
	}
	return []string{m.waits, m.waits, m.waits, "!" + m.waits}
}

// back undoes what comes before that step.
func (m *model) back(step string) {
	if i := slices.Index(order, step); i > 0 {
		m.send("-" + order[i-1])
		return
	}
	m.end(saga.Compensated)
}

// deliver makes the event of an input and does to the model what it should do to
// the saga.
func (m *model) deliver(t *testing.T, id, input string) broker.Delivery {
	switch input {
	case "start":
		return startOf(t, id) // once more
	case "cancel":
		if m.waits == "alpha" || m.waits == "beta" {
			m.revision++
			m.send("-" + m.waits) // it is in doubt
		}
		return broker.Delivery{Topic: events.Signals, Event: events.Event{
			ID: events.NewID(), Source: "/test", Type: events.CancelType, Time: dawn, CorrelationID: id, PartitionKey: id,
		}}
	}
	command, rejected := strings.CutPrefix(input, "!")
	step, undo := strings.CutPrefix(command, "-")
	if command == m.waits && (!rejected || !m.refused) {
		m.revision++
		switch {
		case rejected && (undo || step == "delta"):
			m.refused = true
			m.end(saga.Stuck)
		case rejected, undo:
			m.back(step)
		case step == "delta":
			m.end(saga.Completed)
		default:
			m.send(order[slices.Index(order, step)+1])
		}
	}
	if rejected {
		return no(t, id, command)
	}
	return ok(t, id, command)
}

func (m *model) compare(rt *rapid.T, b *bench, id string) {
	in, revision, err := saga.NewReader(b.pool).Get(b.t.Context(), id)
	if m.status == "" {
		if !errors.Is(err, saga.ErrNotFound) {
			rt.Fatalf("saga %s: %v, and it has not begun", id, err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	waits := ""
	for _, step := range in.Steps {
		switch step.Status {
		case saga.StepRunning:
			waits = step.Name
		case saga.StepCompensating:
			waits = "-" + step.Name
		default:
		}
	}
	if in.Status != m.status || revision != m.revision || waits != m.waits {
		rt.Fatalf("saga %s is %s at %d and waits for %q, want %s at %d and %q", id, in.Status, revision, waits, m.status, m.revision, m.waits)
	}
	if got, want := b.sent(id), strings.Join(m.sent, " "); got != want {
		rt.Fatalf("saga %s sent %q, want %q", id, got, want)
	}
	if history, err := saga.NewReader(b.pool).History(b.t.Context(), id); err != nil || int64(len(history)) != m.revision {
		rt.Fatalf("saga %s has %d entries of %d: %v", id, len(history), m.revision, err)
	}
	if live := one[bool](b, "select exists (select from saga_live where saga_id = $1)", id); live == m.status.Final() {
		rt.Fatalf("saga %s is %s, and counts as live: %v", id, m.status, live)
	}
}
