// Package play plays sagas in memory, for the tests of their definitions. It gives
// each command the answer that the test has for its step, in the order in which
// they were sent, and writes down what was sent.
package play

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// ID is of every saga that is played.
const ID = "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f"

// Begin is when each begins.
var Begin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Answer is what a participant says: a reply, a rejection's code, or nothing.
type Answer struct {
	Reply  any
	Reject events.Code
	Silent bool
}

// Play is one saga on its way through Decide.
type Play struct {
	T       testing.TB
	Program *saga.Program
	Saga    saga.Instance
	Now     time.Time
	// Answers by the name of the step, with its index in brackets, or without for
	// all of them. A step without one is simply obeyed.
	Answers map[string]Answer
	// Sent are the steps in the order in which their commands were sent, those of
	// compensations with a minus in front. Repetitions are not told.
	Sent []string

	open []saga.Effect
}

// New plays a definition up to its first commands.
func New(t testing.TB, definition saga.Compiler, request any, answers map[string]Answer) *Play {
	t.Helper()
	program, err := definition.Compile()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	p := &Play{T: t, Program: program, Now: Begin, Answers: answers}
	p.Decide(saga.Input{Start: &saga.StartInput{ID: ID, Request: data}})
	return p
}

// Run answers what was sent until nothing is open but what stays silent.
func (p *Play) Run() {
	p.T.Helper()
	for len(p.open) > 0 {
		e := p.open[0]
		p.open = p.open[1:]
		name := strings.TrimPrefix(step(e), "-")
		bare, _, _ := strings.Cut(name, "[")
		answer, ok := p.Answers[name]
		if !ok {
			answer = p.Answers[bare]
		}
		if e.Undoes != "" {
			answer = p.Answers["-"+bare]
		}
		if answer.Silent {
			continue
		}
		input := saga.ReplyInput{CommandID: e.ID}
		if answer.Reject != "" {
			input.Rejection = &events.Rejection{Code: answer.Reject, Message: "no"}
		} else if answer.Reply != nil {
			input.Data = p.encode(answer.Reply)
		}
		p.Decide(saga.Input{Reply: &input})
		before := p.Saga
		p.Decide(saga.Input{Reply: &input}) // a copy must change nothing
		if string(p.encode(before)) != string(p.encode(p.Saga)) {
			p.T.Errorf("the second copy of the reply to %s changed the saga", name)
		}
	}
}

// Signal gives the saga a signal.
func (p *Play) Signal(id, signalType string, payload any) {
	p.T.Helper()
	p.Decide(saga.Input{Signal: &saga.SignalInput{ID: id, Type: signalType, Data: p.encode(payload)}})
}

// Pass lets time pass.
func (p *Play) Pass(d time.Duration) {
	p.T.Helper()
	p.Now = p.Now.Add(d)
	p.Decide(saga.Input{Tick: true})
}

// Decide makes one decision.
func (p *Play) Decide(input saga.Input) {
	p.T.Helper()
	out, effects, _ := p.Program.Decide(p.Saga, input, p.Now)
	for _, e := range effects {
		if e.Attempt == 1 {
			p.Sent = append(p.Sent, step(e))
		}
		p.open = append(p.open, e)
	}
	p.Saga = out
}

// Want checks how the saga stands and what it has sent, in this order.
func (p *Play) Want(status saga.Status, code events.Code, sent ...string) {
	p.T.Helper()
	got := events.Code("")
	if p.Saga.Failure != nil {
		got = p.Saga.Failure.Code
	}
	if p.Saga.Trouble != nil {
		got = p.Saga.Trouble.Code
	}
	if p.Saga.Status != status || got != code {
		p.T.Errorf("it is %s with code %q, want %s with %q", p.Saga.Status, got, status, code)
	}
	if !slices.Equal(p.Sent, sent) {
		p.T.Errorf("sent\n%q, want\n%q", p.Sent, sent)
	}
}

// Step returns the record of a step.
func (p *Play) Step(name string) saga.StepRecord {
	p.T.Helper()
	for _, r := range p.Saga.Steps {
		if r.Name == name {
			return r
		}
	}
	p.T.Fatalf("the saga has not come to %s", name)
	return saga.StepRecord{}
}

func (p *Play) encode(value any) []byte {
	p.T.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		p.T.Fatal(err)
	}
	return data
}

func step(e saga.Effect) string {
	if e.Undoes != "" {
		return "-" + e.Step
	}
	return e.Step
}
