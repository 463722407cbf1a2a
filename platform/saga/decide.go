package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Input is what may happen to a saga. Exactly one field is set.
type Input struct {
	Start *StartInput
	Reply *ReplyInput
	Tick  bool // time has passed
}

// StartInput begins a saga.
type StartInput struct {
	ID          string
	Request     []byte
	Fingerprint string
	// At is when the command was made, by its sender's clock.
	At time.Time
}

// ReplyInput is a participant's answer.
type ReplyInput struct {
	CommandID string // of the command it answers
	Data      []byte
	Rejection *events.Rejection // nil: a positive reply
}

// Effect is a command that a decision wants to be sent.
type Effect struct {
	ID      string // of the command: the same for every attempt
	Type    string
	Topic   events.Topic
	Data    []byte
	Undoes  string // id of the command it undoes; empty going forward
	Attempt int    // from 1
}

// Verdict tells what Decide made of an input.
type Verdict string

// The verdicts.
const (
	Applied Verdict = "applied"
	// Ignored inputs change nothing: a reply that is not awaited (duplicate, late
	// or unknown), a tick before anything is due, anything after the end.
	Ignored Verdict = "ignored"
)

// Decide returns what the saga is after the input, at now, and which commands
// that calls for. It is pure: the same arguments always give the same result,
// and in is not changed. A definition whose own code fails makes the saga stuck
// rather than lose it.
func (p *Program) Decide(in Instance, input Input, now time.Time) (out Instance, effects []Effect, verdict Verdict) {
	d := decision{program: p, Instance: in, now: now}
	d.Steps = slices.Clone(in.Steps)
	switch {
	case input.Start != nil:
		d.start(*input.Start)
	case input.Reply != nil:
		d.reply(*input.Reply)
	case input.Tick:
		d.tick()
	}
	if !d.applied {
		return in, nil, Ignored
	}
	if now.After(d.UpdatedAt) { // a saga's time does not go back, whatever clocks do
		d.UpdatedAt = now
	}
	return d.Instance, d.effects, Applied
}

// decision is an instance on its way to the next one.
type decision struct {
	Instance
	program *Program
	now     time.Time
	effects []Effect
	applied bool
}

// skewMax is how far ahead a sender's clock is believed.
const skewMax = time.Second

func (d *decision) start(input StartInput) {
	if d.Status != "" {
		return
	}
	d.applied = true
	p := d.program
	d.ID, d.Name, d.Version, d.StartType, d.Fingerprint = input.ID, p.Name, p.Version, p.StartType, input.Fingerprint
	d.Status, d.CreatedAt = Running, d.now
	if ahead := input.At.Sub(d.now); ahead > 0 && ahead < skewMax {
		// Whoever saw the command accepted must not find the saga older than that.
		d.CreatedAt = input.At
	}
	d.UpdatedAt = d.CreatedAt
	d.Steps = make([]StepRecord, len(p.steps))
	for i, s := range p.steps {
		d.Steps[i] = StepRecord{Name: s.name, Status: StepPending}
	}
	state, err := protect(func() ([]byte, error) { return p.begin(input.ID, input.Request) })
	if err != nil {
		// Nothing has been done, so there is nothing to undo.
		d.Status, d.Failure = Compensated, &Failure{Code: "invalid_request", Message: "the request does not fit the saga's contract"}
		return
	}
	d.State = state
	d.forward(0)
}

// forward sends the command of step i, or completes the saga after the last.
func (d *decision) forward(i int) {
	p := d.program
	if i == len(p.steps) {
		result, err := protect(func() ([]byte, error) { return p.result(d.State) })
		if err != nil {
			d.stick(p.steps[i-1].name, err)
			return
		}
		d.Status, d.Result, d.Trouble = Completed, result, nil
		return
	}
	s := &p.steps[i]
	request, err := protect(func() ([]byte, error) { return s.build(d.State) })
	if err != nil {
		d.fail(i, s, err)
		return
	}
	d.Status, d.Trouble = Running, nil
	d.Steps[i].Status = StepRunning
	d.send(i, CallRecord{Request: request, Deadline: d.now.Add(s.timeout)})
}

// fail handles user code that failed before step i was sent: before the pivot
// the saga turns round, after it somebody must look.
func (d *decision) fail(i int, s *step, err error) {
	if s.afterPivot {
		d.stick(s.name, err)
		return
	}
	d.Failure = &Failure{Step: s.name, Code: "definition_failed", Message: "the saga's own code failed"}
	d.backward(i)
}

// backward undoes the nearest step before i that needs it, or ends the saga.
func (d *decision) backward(i int) {
	d.Status, d.Backward, d.Trouble = Compensating, true, nil
	for i--; i >= 0; i-- {
		record := &d.Steps[i]
		s := &d.program.steps[i]
		if s.undo == nil || (record.Status != StepDone && record.Status != StepTimedOut) {
			continue
		}
		request, err := protect(func() ([]byte, error) {
			return s.buildUndo(d.State, record.Do.Request, record.Do.Reply, record.Status == StepTimedOut)
		})
		if err != nil {
			d.stick(s.name, err)
			return
		}
		record.Status = StepCompensating
		d.send(i, CallRecord{Request: request, Deadline: d.now.Add(undoTimeout)})
		return
	}
	d.Status = Compensated
}

// send issues the awaited command of step i, the first time or again.
func (d *decision) send(i int, call CallRecord) {
	record, s := &d.Steps[i], &d.program.steps[i]
	call.Attempts++
	call.SentAt = d.now
	pause := s.retry.Min << min(call.Attempts-1, 20)
	if pause > s.retry.Max || pause <= 0 {
		pause = s.retry.Max
	}
	call.RetryAt = d.now.Add(pause)
	effect := Effect{Data: call.Request, Attempt: call.Attempts}
	if record.Status == StepCompensating {
		record.Undo = call
		effect.ID, effect.Type, effect.Topic = UndoID(d.ID, s.name), s.undo.Type, s.undo.Topic
		effect.Undoes = DoID(d.ID, s.name)
	} else {
		record.Do = call
		effect.ID, effect.Type, effect.Topic = DoID(d.ID, s.name), s.do.Type, s.do.Topic
	}
	d.effects = append(d.effects, effect)
}

// reply takes an answer in, if it is the awaited one.
func (d *decision) reply(input ReplyInput) {
	i, undo := d.awaited()
	if i < 0 || d.Status.Final() {
		return
	}
	record, s := &d.Steps[i], &d.program.steps[i]
	switch {
	case undo && input.CommandID == UndoID(d.ID, s.name):
		if input.Rejection != nil {
			d.refused(s, &record.Undo, input.Rejection, "its compensation was refused: ")
			return
		}
		d.applied = true
		record.Undo.answered(input.Data)
		record.Status = StepCompensated
		d.backward(i)
	case !undo && input.CommandID == DoID(d.ID, s.name):
		if input.Rejection != nil {
			d.rejected(i, input.Rejection)
			return
		}
		d.applied = true
		if s.fold != nil {
			state, err := protect(func() ([]byte, error) { return s.fold(d.State, input.Data) })
			if err != nil {
				d.foldFailed(i, input.Data, err)
				return
			}
			d.State = state
		}
		record.Do.answered(input.Data)
		record.Status = StepDone
		d.forward(i + 1)
	}
}

func (d *decision) rejected(i int, rejection *events.Rejection) {
	s := &d.program.steps[i]
	if s.afterPivot {
		d.refused(s, &d.Steps[i].Do, rejection, "refused after the pivot: ")
		return
	}
	d.applied = true
	d.Steps[i].Status = StepRejected
	d.Failure = &Failure{Step: s.name, Code: rejection.Code, Message: clip(rejection.Message)}
	d.backward(i)
}

// refused makes the saga stuck on a command that has to succeed. It is not
// repeated, since it would get the same answer.
func (d *decision) refused(s *step, call *CallRecord, rejection *events.Rejection, why string) {
	if d.Status == Stuck && call.RetryAt.IsZero() {
		return // a copy of the rejection
	}
	d.applied = true
	d.Status, call.RetryAt = Stuck, time.Time{}
	d.Trouble = &Failure{Step: s.name, Code: rejection.Code, Message: clip(why + rejection.Message)}
}

// foldFailed handles a reply that the definition cannot take in. The step has
// run, so before the pivot it is undone with the others.
func (d *decision) foldFailed(i int, reply []byte, err error) {
	s := &d.program.steps[i]
	if s.pivot || s.afterPivot {
		d.stick(s.name, err)
		return
	}
	d.Steps[i].Do.answered(reply)
	d.Steps[i].Status = StepDone
	d.Failure = &Failure{Step: s.name, Code: "definition_failed", Message: "the saga's own code failed"}
	d.backward(i + 1)
}

// tick acts on what is due: a deadline, or the next attempt.
func (d *decision) tick() {
	i, undo := d.awaited()
	if i < 0 || d.Status.Final() {
		return
	}
	due := d.due()
	if due.IsZero() || d.now.Before(due) {
		return
	}
	d.applied = true
	record, s := &d.Steps[i], &d.program.steps[i]
	call := record.Do
	if undo {
		call = record.Undo
	}
	if d.Status != Stuck && !d.now.Before(call.Deadline) {
		if !undo && !s.pivot && !s.afterPivot {
			record.Status = StepTimedOut
			d.Failure = &Failure{Step: s.name, Code: s.timeoutCode, Message: fmt.Sprintf("no answer within %s", s.timeout)}
			d.backward(i + 1)
			return
		}
		d.Status = Stuck
		d.Trouble = &Failure{Step: s.name, Code: "no_answer", Message: fmt.Sprintf("no answer after %d attempts", call.Attempts)}
	}
	d.send(i, call)
}

// stick makes the saga stuck where it stands, because its own code failed.
func (d *decision) stick(step string, err error) {
	d.Status = Stuck
	d.Trouble = &Failure{Step: step, Code: "definition_failed", Message: clip(err.Error())}
}

// Limits on what one transition stores and sends: a message that no broker takes
// would fail its transaction at every attempt.
const (
	dataBytesMax  = broker.MessageBytesMax - 64<<10 // room for attributes, and for the rest of an outcome
	storyBytesMax = 1000                            // of a failure's message
)

// protect turns a panic of user code, and data that is too large, into an error.
func protect(run func() ([]byte, error)) (data json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if data, err = run(); err == nil && len(data) > dataBytesMax {
		return nil, fmt.Errorf("%d bytes of data, at most %d are allowed", len(data), dataBytesMax)
	}
	return data, err
}

// clip bounds a text that others wrote.
func clip(text string) string {
	if len(text) > storyBytesMax {
		return strings.ToValidUTF8(text[:storyBytesMax], "") + "…"
	}
	return text
}
