package saga

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Input is what may happen to a saga. Exactly one field is set.
type Input struct {
	Start  *StartInput
	Reply  *ReplyInput
	Signal *SignalInput
	Local  *LocalInput
	// Recall is the wish of a parent saga to have this one undone.
	Recall *RecallInput
	Lock   *LockInput
	Order  *Order // by an operator or a client
	Tick   bool   // time has passed
}

// StartInput begins a saga.
type StartInput struct {
	ID          string
	Request     []byte
	Fingerprint string
	// Tenant owns the saga: the one that its gateway named; empty for none.
	Tenant string
	// Parent and ReplyTo are set when another saga waits for the end of this one.
	Parent  string
	ReplyTo events.Topic
	// At is when the command was made, by its sender's clock.
	At time.Time
	// Expires is when whoever sent it has no more use for it; zero for never. A saga
	// that would begin later does nothing and ends compensated with the code expired.
	Expires time.Time
}

// ReplyInput is a participant's answer.
type ReplyInput struct {
	CommandID string // of the command it answers
	Data      []byte
	Rejection *events.Rejection // nil: a positive reply
}

// SignalInput is a fact that a saga waits for, or may wait for later.
type SignalInput struct {
	ID   string // of the event
	Type string // of the fact
	Data []byte
	// Order is set when an operator sent it, and kept in the saga's history.
	Order *Order
}

// LocalInput tells how the attempt of a local step ended.
type LocalInput struct {
	Step      string
	Undo      bool
	State     []byte                       // as the step left it
	Items     map[string][]json.RawMessage // of the for-each around it, likewise
	Rejection *events.Rejection            // the step said no
	Error     string                       // it failed, and is to be tried again
}

// RecallInput asks for the compensation of a child saga.
type RecallInput struct {
	ID      string // of the saga
	Parent  string
	ReplyTo events.Topic
	Command string // id of the command that asks, which wants an answer
}

// Effect is something that a decision wants to be done: a command to be sent, or
// the answer to whoever started the saga.
type Effect struct {
	ID      string // of the command: the same for every attempt
	Step    string // that wants it; empty for an answer
	Type    string
	Topic   events.Topic
	Data    []byte
	Undoes  string // id of the command it undoes; empty going forward
	Attempt int    // from 1
	// Answers is the id of the command that an answer is for.
	Answers   string
	Rejection *events.Rejection // of an answer

	claim *claim // the saga wants a lock; the other fields but Step are empty
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

// Decide returns what the saga is after the input, at now, and what that calls
// for. It is pure: the same arguments always give the same result, and in is not
// changed. A definition whose own code fails makes the saga stuck rather than lose
// it. The reason why an order was refused is told by [Program.Obey].
func (p *Program) Decide(in Instance, input Input, now time.Time) (out Instance, effects []Effect, verdict Verdict) {
	out, effects, verdict, _ = p.decide(in, input, now)
	return out, effects, verdict
}

// Obey is Decide for an order. The error is an [*OrderError] when the saga cannot
// do what it is told.
func (p *Program) Obey(in Instance, order Order, now time.Time) (out Instance, effects []Effect, err error) {
	out, effects, _, err = p.decide(in, Input{Order: &order}, now)
	return out, effects, err
}

func (p *Program) decide(in Instance, input Input, now time.Time) (out Instance, effects []Effect, verdict Verdict, refused error) {
	d := decision{program: p, Instance: in, now: now}
	d.Steps = slices.Clone(in.Steps)
	switch {
	case input.Start != nil:
		d.start(*input.Start)
	case input.Reply != nil:
		d.reply(*input.Reply)
	case input.Signal != nil:
		d.signal(*input.Signal)
	case input.Local != nil:
		d.localEnded(*input.Local)
	case input.Recall != nil:
		d.recall(*input.Recall)
	case input.Lock != nil:
		d.lock(*input.Lock)
	case input.Order != nil:
		refused = d.order(*input.Order)
	case input.Tick:
		d.tick()
	}
	if !d.applied {
		return in, d.effects, Ignored, refused // an answer may be repeated all the same
	}
	d.settle()
	d.seal()
	if now.After(d.UpdatedAt) { // a saga's time does not go back, whatever clocks do
		d.UpdatedAt = now
	}
	return d.Instance, d.effects, Applied, nil
}

// decision is an instance on its way to the next one.
type decision struct {
	Instance
	program *Program
	now     time.Time
	effects []Effect
	applied bool
	value   any            // the state, once decoded
	dirty   bool           // value has been written since State was
	index   map[string]int // of Steps by name, once there are many
}

// skewMax is how far ahead a sender's clock is believed.
const skewMax = time.Second

func (d *decision) start(input StartInput) {
	if d.Status != "" {
		if d.Status.Final() && d.ReplyTo != "" {
			d.answer(d.ID) // the parent asks again, so the answer was lost
		}
		return
	}
	d.applied = true
	d.found(input.ID, input.Parent, input.ReplyTo)
	d.Fingerprint, d.Tenant, d.Status = input.Fingerprint, input.Tenant, Running
	if ahead := input.At.Sub(d.now); ahead > 0 && ahead < skewMax {
		// Whoever saw the command accepted must not find the saga older than that.
		d.CreatedAt = input.At.Add(time.Microsecond - 1).Truncate(time.Microsecond) // as precise as the history
	}
	d.UpdatedAt = d.CreatedAt
	if d.program.Deadline > 0 {
		d.Deadline = d.CreatedAt.Add(d.program.Deadline).Truncate(time.Microsecond)
	}
	if !input.Expires.IsZero() && !d.now.Before(input.Expires) {
		d.Backward, d.Failure = true, &Failure{Code: "expired", Message: "the command came after its expiry time"}
		return
	}
	err := protect(func() (err error) {
		d.value, err = d.program.begin(input.ID, input.Request)
		return err
	})
	if err == nil {
		d.dirty = true
		err = d.store()
	}
	if err != nil {
		// Nothing has been done, so there is nothing to undo.
		d.value, d.dirty, d.State = nil, false, nil
		d.Backward, d.Failure = true, &Failure{Code: "invalid_request", Message: "the request does not fit the saga's contract"}
	}
}

// found sets what never changes.
func (d *decision) found(id, parent string, replyTo events.Topic) {
	p := d.program
	d.ID, d.Name, d.Version, d.StartType = id, p.Name, p.Version, p.StartType
	d.Parent, d.ReplyTo = parent, replyTo
	d.CreatedAt, d.UpdatedAt = d.now, d.now
}

// settle goes on from where the input has left the saga, as far as it can
// without another one.
func (d *decision) settle() {
	if d.Paused {
		return
	}
	for range settleMax {
		switch {
		case d.Status.Final():
			return
		case !d.Backward:
			done := d.run(d.program.root, nil)
			if d.Backward {
				continue // it turned round on the way
			}
			if done {
				d.complete()
			}
			return
		default:
			if d.unwind(d.program.root, nil) && d.Trouble == nil {
				d.finish(Compensated)
			}
			return
		}
	}
	panic("a saga turned round more than once")
}

const settleMax = 3

// seal writes what the decision has led to.
func (d *decision) seal() {
	if err := d.store(); err != nil { // folds have checked it, so this is a state that changed without one
		d.stick("", err)
	}
	d.Trouble = or(d.Trouble, d.trouble())
	switch {
	case d.Status.Final():
	case d.Trouble != nil:
		d.Status = Stuck
	case d.Backward:
		d.Status = Compensating
	default:
		d.Status = Running
	}
}

// complete ends the saga after its last node.
func (d *decision) complete() {
	var result []byte
	err := protect(func() error {
		state, err := d.state(nil)
		if err == nil {
			result, err = d.program.result(state)
		}
		return sized(result, err)
	})
	if err != nil {
		d.stick("", err)
		return
	}
	d.Result, d.Trouble = result, nil
	d.finish(Completed)
}

// finish writes a final status, and answers whoever waits for it.
func (d *decision) finish(status Status) {
	d.Status, d.Signals = status, nil
	if d.ReplyTo != "" {
		d.answer(or(d.Recalled, d.ID))
	}
}

// answer tells the parent how the saga ended.
func (d *decision) answer(command string) {
	effect := Effect{Type: d.StartType, Topic: d.ReplyTo, Answers: command, Data: d.Result}
	if command != d.ID {
		effect.Type, effect.Data = events.CompensationType(d.StartType), nil
	} else if d.Status != Completed {
		failure := or(d.Failure, &Failure{Code: "abandoned", Message: "the saga was abandoned"})
		effect.Data, effect.Rejection = nil, &events.Rejection{Code: failure.Code, Message: failure.Message}
	}
	d.effects = append(d.effects, effect)
}

// turn makes the saga compensate.
func (d *decision) turn(step string, code events.Code, message string) {
	d.Backward, d.Trouble = true, nil
	if d.Failure == nil {
		d.Failure = &Failure{Step: step, Code: code, Message: clip(message)}
	}
}

// fail handles user code that failed at a step: before the pivot the saga turns
// round, after it somebody must look.
func (d *decision) fail(step string, err error) {
	if d.Pivoted {
		d.stick(step, err)
		return
	}
	d.turn(step, "definition_failed", "the saga's own code failed")
}

// stick makes the saga stuck where it stands, because its own code failed.
func (d *decision) stick(step string, err error) {
	d.Trouble = &Failure{Step: step, Code: "definition_failed", Message: clip(err.Error())}
}

// recover ends the trouble with a step that has made progress.
func (d *decision) recover(step string) {
	if d.Trouble != nil && (d.Trouble.Step == step || d.Trouble.Code == "definition_failed") {
		d.Trouble = nil
	}
}

// trouble returns that with a step which has had its time or was refused, and
// which trouble with another one may have hidden.
func (d *decision) trouble() *Failure {
	if d.Status.Final() {
		return nil
	}
	for i := range d.Steps {
		r := &d.Steps[i]
		if waiting, undo := r.awaits(); waiting && undo == d.Backward && r.call().Error != "" && r.call().Deadline.IsZero() {
			return trouble(r)
		}
	}
	return nil
}

func trouble(r *StepRecord) *Failure {
	return &Failure{Step: r.Name, Code: r.Code, Message: r.call().Error}
}

// record returns the record of that name, or nil. The pointer is good until
// another record is added.
func (d *decision) record(name string) *StepRecord {
	if len(d.Steps) <= 16 { // scanning is faster
		for i := range d.Steps {
			if d.Steps[i].Name == name {
				return &d.Steps[i]
			}
		}
		return nil
	}
	if d.index == nil {
		d.index = make(map[string]int, len(d.Steps))
		for i := range d.Steps {
			d.index[d.Steps[i].Name] = i
		}
	}
	if i, ok := d.index[name]; ok {
		return &d.Steps[i]
	}
	return nil
}

// enter adds the record of a node that the saga comes to.
func (d *decision) enter(n *node, at *scope, status StepStatus) *StepRecord {
	record := StepRecord{Name: at.path(n), Status: status}
	if n.kind != kindStep {
		record.Kind = string(n.kind)
	}
	d.Steps = append(d.Steps, record)
	if d.index != nil {
		d.index[record.Name] = len(d.Steps) - 1
	}
	return &d.Steps[len(d.Steps)-1]
}

// done marks a step as done.
func (d *decision) done(r *StepRecord) {
	most := 0
	for i := range d.Steps {
		most = max(most, d.Steps[i].Done)
	}
	r.Status, r.Done = StepDone, most+1
}

// Limits on what one transition stores and sends: a message that no broker takes
// would fail its transaction at every attempt.
const (
	dataBytesMax  = broker.MessageBytesMax - 64<<10 // room for attributes, and for the rest of an outcome
	storyBytesMax = 1000                            // of a failure's message
)

// protect turns a panic of user code into an error.
func protect(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return run()
}

var errTooLarge = errors.New("too much data")

// sized refuses data that is too large to be stored or sent.
func sized(data json.RawMessage, err error) error {
	if err == nil && len(data) > dataBytesMax {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", errTooLarge, len(data), dataBytesMax)
	}
	return err
}

// clip bounds a text that others wrote.
func clip(text string) string {
	if len(text) > storyBytesMax {
		return strings.ToValidUTF8(text[:storyBytesMax], "") + "…"
	}
	return text
}
