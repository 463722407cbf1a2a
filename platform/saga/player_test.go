package saga_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

const tripID = "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f"

var dawn = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// player plays one saga through Decide. It checks on the way what holds for
// every decision: that it is pure, that nothing happens after the end, and that
// what is ignored changes nothing.
type player struct {
	t       *testing.T
	program *saga.Program
	saga    saga.Instance
	now     time.Time
	sent    []saga.Effect // by the last decision
	log     []string      // commands in order: "alpha", "-alpha" for its undo, "#2" for a repetition
}

func play(t *testing.T, d saga.Compiler) *player {
	t.Helper()
	program, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return &player{t: t, program: program, now: dawn}
}

// started plays d with a request that fails in that user function.
func started(t *testing.T, d saga.Compiler, fail string) *player {
	t.Helper()
	p := play(t, d)
	p.start(encode(t, booking{Trip: "x", Fail: fail}))
	return p
}

func (p *player) start(request []byte) saga.Verdict {
	p.t.Helper()
	return p.decide(saga.Input{Start: &saga.StartInput{ID: tripID, Request: request, Fingerprint: "f"}})
}

func (p *player) decide(input saga.Input) saga.Verdict {
	p.t.Helper()
	before := encode(p.t, p.saga)
	next, effects, verdict := p.program.Decide(p.saga, input, p.now)
	again, effects2, verdict2 := p.program.Decide(p.saga, input, p.now)
	if !reflect.DeepEqual(next, again) || !reflect.DeepEqual(effects, effects2) || verdict != verdict2 {
		p.t.Errorf("the same input twice gives\n%+v %+v %s\n%+v %+v %s", next, effects, verdict, again, effects2, verdict2)
	}
	if after := encode(p.t, p.saga); string(after) != string(before) {
		p.t.Errorf("Decide changed its argument:\n%s\n%s", before, after)
	}
	if p.saga.Status.Final() && verdict != saga.Ignored {
		p.t.Errorf("%s after the end: %s -> %s", verdict, p.saga.Status, next.Status)
	}
	if verdict == saga.Ignored && (len(effects) > 0 || string(encode(p.t, next)) != string(before)) {
		p.t.Errorf("an ignored input changed the saga or sent %d commands", len(effects))
	}
	if len(effects) > 1 {
		p.t.Errorf("one decision sent %d commands", len(effects))
	}
	p.saga, p.sent = next, effects
	for _, effect := range effects {
		p.log = append(p.log, p.name(effect))
	}
	return verdict
}

func (p *player) name(effect saga.Effect) string {
	for _, s := range p.saga.Steps {
		name := s.Name
		switch {
		case effect.ID == saga.DoID(tripID, s.Name) && effect.Undoes == "":
		case effect.ID == saga.UndoID(tripID, s.Name) && effect.Undoes == saga.DoID(tripID, s.Name):
			name = "-" + name
		default:
			continue
		}
		if effect.Attempt > 1 {
			name += "#" + string(rune('0'+effect.Attempt))
		}
		return name
	}
	p.t.Errorf("command %+v is of no step", effect)
	return "?"
}

// awaits returns what the saga waits for, as in the log, and its record.
func (p *player) awaits() (name, id string, call saga.CallRecord) {
	for _, s := range p.saga.Steps {
		if s.Status == saga.StepRunning {
			return s.Name, saga.DoID(tripID, s.Name), s.Do
		}
		if s.Status == saga.StepCompensating {
			return "-" + s.Name, saga.UndoID(tripID, s.Name), s.Undo
		}
	}
	return "", "", saga.CallRecord{}
}

// reply answers the awaited command.
func (p *player) reply() saga.Verdict {
	p.t.Helper()
	name, id, _ := p.awaits()
	var data []byte
	if !strings.HasPrefix(name, "-") && name != "note" {
		data = encode(p.t, ticket{len(name)})
	}
	return p.decide(saga.Input{Reply: &saga.ReplyInput{CommandID: id, Data: data}})
}

func (p *player) reject(code events.Code) saga.Verdict {
	p.t.Helper()
	_, id, _ := p.awaits()
	return p.decide(saga.Input{Reply: &saga.ReplyInput{CommandID: id, Rejection: &events.Rejection{Code: code, Message: "no"}}})
}

// until replies to everything until the saga awaits that command.
func (p *player) until(command string) *player {
	p.t.Helper()
	for range 20 {
		if name, _, _ := p.awaits(); name == command {
			return p
		}
		p.reply()
	}
	p.t.Fatalf("never awaits %s: %s %q", command, p.saga.Status, p.log)
	return nil
}

// finish replies to everything until nothing is awaited.
func (p *player) finish() *player {
	p.t.Helper()
	return p.until("")
}

// pass lets time pass until the saga does something.
func (p *player) pass() {
	p.t.Helper()
	_, _, call := p.awaits()
	due := call.RetryAt
	if p.saga.Status != saga.Stuck && call.Deadline.Before(due) {
		due = call.Deadline
	}
	if due.IsZero() {
		p.t.Fatalf("nothing is ever due: %s %q", p.saga.Status, p.log)
	}
	p.now = due.Add(-1)
	if verdict := p.decide(saga.Input{Tick: true}); verdict != saga.Ignored {
		p.t.Errorf("a tick before anything is due was %s", verdict)
	}
	p.now = due
	if verdict := p.decide(saga.Input{Tick: true}); verdict != saga.Applied {
		p.t.Errorf("a tick at %s was %s", due, verdict)
	}
}

// passUntil lets time pass until the saga has that status.
func (p *player) passUntil(status saga.Status) *player {
	p.t.Helper()
	for range 40 {
		if p.saga.Status == status {
			return p
		}
		p.pass()
	}
	p.t.Fatalf("never %s: %s %q", status, p.saga.Status, p.log)
	return nil
}

// ended checks how the saga stands: the code of its failure, or of its trouble
// when it is stuck, and the commands it sent for the first time.
func (p *player) ended(status saga.Status, code events.Code, commands string) {
	p.t.Helper()
	var got events.Code
	switch {
	case p.saga.Status == saga.Stuck && p.saga.Trouble != nil:
		got = p.saga.Trouble.Code
	case p.saga.Failure != nil:
		got = p.saga.Failure.Code
	}
	first := slices.DeleteFunc(slices.Clone(p.log), func(s string) bool { return strings.Contains(s, "#") })
	if p.saga.Status != status || got != code || strings.Join(first, " ") != commands {
		p.t.Errorf("%s with code %q after %q\nwant %s with %q after %q", p.saga.Status, got, strings.Join(first, " "), status, code, commands)
	}
	if p.saga.Status != saga.Stuck && p.saga.Trouble != nil {
		p.t.Errorf("%s and still in trouble: %+v", p.saga.Status, p.saga.Trouble)
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
