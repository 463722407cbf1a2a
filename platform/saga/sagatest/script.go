package sagatest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// Script plays one saga step by step, in virtual time: the test says what comes and
// checks what the saga makes of it. Make it with [Play].
type Script struct {
	t       testing.TB
	program *saga.Program
	saga    saga.Instance
	now     time.Time
	sent    []string // since the last Sends
	last    saga.Input
	signals int
	trace   strings.Builder
}

// Play returns a script for a saga that has not begun.
func Play(t testing.TB, definition saga.Compiler) *Script {
	t.Helper()
	p, err := definition.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return &Script{t: t, program: p, now: dawn}
}

// scriptID is the id of the saga of every script.
const scriptID = "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f"

// Start begins the saga with that request.
func (s *Script) Start(request any) *Script {
	s.t.Helper()
	data := s.encode(request)
	return s.apply(saga.Input{Start: &saga.StartInput{ID: scriptID, Request: data, Fingerprint: "f"}}, "start %s", data)
}

// Reply answers what the saga waits for at that step, its command or its
// compensation. A nil reply has no data.
func (s *Script) Reply(step string, reply any) *Script {
	s.t.Helper()
	r := s.awaited(step)
	if r == nil {
		return s
	}
	var data []byte
	if reply != nil {
		data = s.encode(reply)
	}
	return s.apply(saga.Input{Reply: &saga.ReplyInput{CommandID: commandID(r), Data: data}}, "reply of %s %s", step, data)
}

// Reject answers it with a rejection. So does it for a local step.
func (s *Script) Reject(step string, code events.Code) *Script {
	s.t.Helper()
	r := s.awaited(step)
	if r == nil {
		return s
	}
	if r.Kind == "local step" {
		return s.local(r, saga.LocalInput{Rejection: rejected(code)}, "rejection of %s: %s", step, code)
	}
	return s.apply(saga.Input{Reply: &saga.ReplyInput{CommandID: commandID(r), Rejection: rejected(code)}}, "rejection of %s: %s", step, code)
}

// Local tells that a local step, or its undo, has run and left that state; nil for
// the state as it was.
func (s *Script) Local(step string, state any) *Script {
	s.t.Helper()
	r := s.awaited(step)
	if r == nil {
		return s
	}
	input := saga.LocalInput{State: s.saga.State}
	if state != nil {
		input.State = s.encode(state)
	}
	return s.local(r, input, "local %s", step)
}

// Fail tells that an attempt of a local step has failed.
func (s *Script) Fail(step, message string) *Script {
	s.t.Helper()
	r := s.awaited(step)
	if r == nil {
		return s
	}
	return s.local(r, saga.LocalInput{Error: message}, "failure of %s: %s", step, message)
}

func (s *Script) local(r *saga.StepRecord, input saga.LocalInput, format string, args ...any) *Script {
	s.t.Helper()
	input.Step, input.Undo = r.Name, r.Status == saga.StepCompensating
	return s.apply(saga.Input{Local: &input}, format, args...)
}

// Grant gives the saga a lock that it waits for.
func (s *Script) Grant(step string) *Script {
	s.t.Helper()
	if s.awaited(step) == nil {
		return s
	}
	return s.apply(saga.Input{Lock: &saga.LockInput{Step: step}}, "lock %s", step)
}

// Signal sends the saga a fact, whether it awaits it yet or not.
func (s *Script) Signal(fact events.Contract, payload any) *Script {
	s.t.Helper()
	s.signals++
	data, kind := s.encode(payload), fact.Describe().Type
	return s.apply(saga.Input{Signal: &saga.SignalInput{ID: fmt.Sprint("signal-", s.signals), Type: kind, Data: data}}, "signal %s %s", kind, data)
}

// Again gives the saga the last input once more, as a broker may.
func (s *Script) Again() *Script {
	s.t.Helper()
	return s.apply(s.last, "once more")
}

// Order gives the saga an order. The error is why it is refused.
func (s *Script) Order(order saga.Order) error {
	s.t.Helper()
	fmt.Fprintf(&s.trace, "%8s order %s %s\n", s.now.Sub(dawn), order.Verb, order.Step)
	out, effects, err := s.program.Obey(s.saga, order, s.now)
	if err == nil {
		s.took(out, effects)
	}
	return err
}

// Recall has the saga undone, as the saga does that started it.
func (s *Script) Recall() *Script {
	s.t.Helper()
	return s.apply(saga.Input{Recall: &saga.RecallInput{ID: scriptID, Parent: "parent", ReplyTo: events.Replies, Command: "recall"}}, "recall")
}

// Wait lets time pass, and all happen that is due meanwhile.
func (s *Script) Wait(d time.Duration) *Script {
	s.t.Helper()
	end := s.now.Add(d)
	for range walkMax {
		due := s.saga.Due()
		if due.IsZero() || due.After(end) || s.saga.DueLocal(due) != nil {
			s.now = end
			return s
		}
		if due.After(s.now) {
			s.now = due
		}
		s.apply(saga.Input{Tick: true}, "tick")
	}
	s.t.Fatalf("in %s its timer fires without end\n%s", d, s.Trace())
	return s
}

// Next lets time pass until the next thing is due.
func (s *Script) Next() *Script {
	s.t.Helper()
	due := s.saga.Due()
	if due.IsZero() {
		s.t.Errorf("nothing is ever due\n%s", s.Trace())
		return s
	}
	return s.Wait(due.Sub(s.now))
}

// TimeOut lets time pass until the saga no longer waits for that step, or says that
// it is stuck with it.
func (s *Script) TimeOut(step string) *Script {
	s.t.Helper()
	r := s.awaited(step)
	if r == nil {
		return s
	}
	deadline := r.Do.Deadline
	if r.Status == saga.StepCompensating {
		deadline = r.Undo.Deadline
	}
	return s.Wait(deadline.Sub(s.now))
}

// Sends checks which commands the saga has sent since the last call: by the name of
// the step, with a minus for its compensation, and with #2 for the second attempt.
func (s *Script) Sends(commands ...string) *Script {
	s.t.Helper()
	if !slices.Equal(s.sent, commands) {
		s.t.Errorf("the saga sent %q, want %q\n%s", s.sent, commands, s.Trace())
	}
	s.sent = nil
	return s
}

// Ends checks the status of the saga, and the code why it compensates or is stuck;
// "" for none.
func (s *Script) Ends(status saga.Status, code events.Code) *Script {
	s.t.Helper()
	var got events.Code
	switch {
	case s.saga.Status == saga.Stuck && s.saga.Trouble != nil:
		got = s.saga.Trouble.Code
	case s.saga.Failure != nil:
		got = s.saga.Failure.Code
	}
	if s.saga.Status != status || got != code {
		s.t.Errorf("the saga is %s with code %q, want %s with %q\n%s", s.saga.Status, got, status, code, s.Trace())
	}
	return s
}

// Request decodes the request that was last sent to do that step.
func (s *Script) Request(step string, into any) *Script {
	s.t.Helper()
	if r := s.record(step); r == nil {
		s.t.Errorf("the saga has not come to %s\n%s", step, s.Trace())
	} else if err := json.Unmarshal(r.Do.Request, into); err != nil {
		s.t.Errorf("decode the request of %s: %v", step, err)
	}
	return s
}

// State decodes the state of the saga.
func (s *Script) State(into any) *Script {
	s.t.Helper()
	if err := json.Unmarshal(s.saga.State, into); err != nil {
		s.t.Errorf("decode the state: %v", err)
	}
	return s
}

// Instance returns the saga as it stands.
func (s *Script) Instance() saga.Instance { return s.saga }

// Now returns the virtual time.
func (s *Script) Now() time.Time { return s.now }

// Trace returns what has happened so far, in a form that is good to compare with a
// golden file.
func (s *Script) Trace() string { return s.trace.String() }

// apply decides, and checks what holds for every decision: that it is pure and
// leaves its argument alone.
func (s *Script) apply(input saga.Input, format string, args ...any) *Script {
	s.t.Helper()
	before := s.encode(s.saga)
	out, effects, verdict := s.program.Decide(s.saga, input, s.now)
	again, effects2, _ := s.program.Decide(s.saga, input, s.now)
	if string(s.encode(out)) != string(s.encode(again)) || string(s.encode(effects)) != string(s.encode(effects2)) {
		s.t.Errorf("the same input gives two decisions: the definition is not pure\n%s\n%s", s.encode(out), s.encode(again))
	}
	if string(s.encode(s.saga)) != string(before) {
		s.t.Errorf("the decision changed the saga that it was made from\n%s\n%s", before, s.encode(s.saga))
	}
	fmt.Fprintf(&s.trace, "%8s %s", s.now.Sub(dawn), strings.TrimSpace(fmt.Sprintf(format, args...)))
	if verdict == saga.Ignored {
		s.trace.WriteString(" (ignored)")
	}
	s.trace.WriteString("\n")
	s.last = input
	s.took(out, effects)
	return s
}

// took writes down what has become of the saga.
func (s *Script) took(out saga.Instance, effects []saga.Effect) {
	for _, e := range effects {
		switch {
		case e.Answers != "":
			word := string(e.Data)
			if e.Rejection != nil {
				word = "rejection " + string(e.Rejection.Code)
			}
			fmt.Fprintf(&s.trace, "         => answer %s %s\n", e.Type, word)
		case e.Type == "":
			fmt.Fprintf(&s.trace, "         .. %s waits for its lock\n", e.Step)
		default:
			name, arrow := e.Step, "->"
			if e.Undoes != "" {
				name, arrow = "-"+e.Step, "<-"
			}
			if e.Attempt > 1 {
				name = fmt.Sprintf("%s#%d", name, e.Attempt)
			}
			s.sent = append(s.sent, name)
			fmt.Fprintf(&s.trace, "         %s %s #%d %s %s\n", arrow, e.Step, e.Attempt, e.Type, e.Data)
		}
	}
	for i := range out.Steps {
		r := &out.Steps[i]
		if old := s.record(r.Name); (old == nil || old.Status != r.Status) && r.Kind != "" {
			fmt.Fprintf(&s.trace, "         %s %s is %s\n", r.Kind, r.Name, r.Status)
		}
	}
	if out.Status != s.saga.Status {
		fmt.Fprintf(&s.trace, "         == %s", out.Status)
		why := out.Failure
		if out.Status == saga.Stuck {
			why = out.Trouble
		}
		if why != nil {
			fmt.Fprintf(&s.trace, " because of %s", why.Code)
			if why.Step != "" {
				fmt.Fprintf(&s.trace, " at %s", why.Step)
			}
		}
		if out.Result != nil {
			fmt.Fprintf(&s.trace, " %s", out.Result)
		}
		s.trace.WriteString("\n")
	}
	s.saga = out
}

func (s *Script) record(step string) *saga.StepRecord {
	for i := range s.saga.Steps {
		if s.saga.Steps[i].Name == step {
			return &s.saga.Steps[i]
		}
	}
	return nil
}

// awaited returns the record of a step that the saga waits for, or fails the test.
func (s *Script) awaited(step string) *saga.StepRecord {
	s.t.Helper()
	r := s.record(step)
	if r == nil || r.Status != saga.StepRunning && r.Status != saga.StepCompensating {
		s.t.Errorf("the saga does not wait for %s\n%s", step, s.Trace())
		return nil
	}
	return r
}

func commandID(r *saga.StepRecord) string {
	if r.Status == saga.StepCompensating {
		return r.UndoID(scriptID)
	}
	return r.DoID(scriptID)
}

func (s *Script) encode(v any) []byte {
	s.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}
