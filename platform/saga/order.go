package saga

import (
	"encoding/json"
	"fmt"

	"github.com/countermand/countermand/events"
)

// Verb is what a saga can be told to do.
type Verb string

// The verbs. All but Cancel are for operators.
const (
	// Cancel and Compensate undo what the saga has done; they are refused once the
	// pivot has been sent. They differ in the code of the failure: cancelled, or
	// compensated_by_operator.
	Cancel     Verb = "cancel"
	Compensate Verb = "compensate"
	// RetryNow issues what the saga waits for again, at once and with all its time:
	// the step that is named, or all. A step whose command was refused is called
	// anew, with a new command id, since participants repeat their answer to the old.
	RetryNow Verb = "retry"
	// Skip goes on as if the step that is named had been done, or undone, with no
	// reply.
	Skip Verb = "skip"
	// Complete gives the step that is named the reply in Data, as if its participant
	// had.
	Complete Verb = "complete"
	// Pause lets the saga send nothing more and lets no time run out on it; replies
	// are still taken in. Resume goes on, and gives what is awaited all its time anew.
	Pause  Verb = "pause"
	Resume Verb = "resume"
	// Edit replaces the state by Data, which must fit the state type.
	Edit Verb = "edit"
	// Abandon ends the saga as it stands: nothing more is done or undone.
	Abandon Verb = "abandon"
)

// Verbs returns all verbs.
func Verbs() []Verb {
	return []Verb{Cancel, Compensate, RetryNow, Skip, Complete, Pause, Resume, Edit, Abandon}
}

// Order is what somebody tells a saga to do. It is kept in the saga's history.
type Order struct {
	Verb Verb `json:"verb"`
	// By is who gave the order, Reason why; both are required of operators.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Step is the name of a step, for the verbs that need one.
	Step string `json:"step,omitempty"`
	// Data of Complete and Edit, as JSON.
	Data json.RawMessage `json:"data,omitempty"`
}

// OrderError tells why a saga cannot do what it is told.
type OrderError struct {
	// Code is one of saga_not_found, saga_ended, past_pivot, already_compensating,
	// step_not_found, step_not_waiting, not_paused, already_paused, invalid_data,
	// invalid_verb, reason_required; of an [Engine] also revision_moved,
	// definition_missing, signal_not_awaited, too_many_signals, count_differs and
	// too_many_sagas.
	Code    string
	Message string
}

func (e *OrderError) Error() string { return e.Message }

func refuse(code, format string, args ...any) error {
	return &OrderError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// order does what an operator or a client wants, or says why not.
func (d *decision) order(o Order) error {
	switch {
	case d.Status == "":
		return refuse("saga_not_found", "there is no such saga")
	case d.Status.Final():
		return refuse("saga_ended", "the saga has ended %s", d.Status)
	case o.Verb != Cancel && (o.By == "" || o.Reason == ""):
		return noReason()
	}
	err := d.obey(o)
	d.applied = err == nil
	return err
}

func noReason() error {
	return refuse("reason_required", "say who gives the order and why: it is kept in the saga's history")
}

func (d *decision) obey(o Order) error {
	switch o.Verb {
	case Cancel, Compensate:
		return d.cancelled(o)
	case RetryNow:
		return d.retryNow(o.Step)
	case Skip, Complete:
		return d.answerFor(o)
	case Pause:
		if d.Paused {
			return refuse("already_paused", "the saga is paused already")
		}
		d.Paused = true
	case Resume:
		if !d.Paused {
			return refuse("not_paused", "the saga is not paused")
		}
		d.Paused, d.Trouble = false, nil // what is still in trouble says so again
		d.refresh("")
	case Edit:
		value, err := d.program.decode(o.Data)
		if err != nil {
			return refuse("invalid_data", "the data does not fit the state of %s: %v", d.Name, err)
		}
		d.value, d.dirty = value, true
		if err := d.store(); err != nil {
			return refuse("invalid_data", "the state cannot be stored: %v", err)
		}
		if d.Trouble != nil && d.Trouble.Code == "definition_failed" {
			d.Trouble = nil // the saga's own code gets another chance with it
		}
	case Abandon:
		d.Failure = &Failure{Code: "abandoned", Message: clip(o.Reason)}
		d.Trouble = nil
		d.finish(Abandoned)
	default:
		return refuse("invalid_verb", "there is no verb %q; the verbs are %v", o.Verb, Verbs())
	}
	return nil
}

func (d *decision) cancelled(o Order) error {
	if d.Pivoted {
		return refuse("past_pivot", "the saga has passed its pivot and only goes forward")
	}
	if d.Backward {
		return refuse("already_compensating", "the saga compensates already")
	}
	code, message := events.Code("cancelled"), "cancelled on request"
	if o.Verb == Compensate {
		code, message = "compensated_by_operator", o.Reason
	}
	d.Paused = false
	d.turn(o.Step, code, message)
	return nil
}

// retryNow issues again what the saga waits for.
func (d *decision) retryNow(step string) error {
	if step != "" {
		record := d.record(step)
		if record == nil {
			return d.noStep(step)
		}
		if waiting, _ := record.awaits(); !waiting {
			return refuse("step_not_waiting", "step %s is %s, so there is nothing to retry", step, record.Status)
		}
	}
	d.Paused = false
	if d.refresh(step) == 0 && d.Trouble == nil {
		return refuse("step_not_waiting", "the saga waits for nothing that could be retried")
	}
	d.Trouble = nil
	return nil
}

// refresh issues what the saga waits for again and gives it all its time, and
// returns how many calls that are.
func (d *decision) refresh(step string) (calls int) {
	for i := range d.Steps {
		record := &d.Steps[i]
		waiting, undo := record.awaits()
		n, _, ok := d.program.locate(record.Name)
		if !ok || !waiting || undo != d.Backward || step != "" && record.Name != step {
			continue
		}
		call := record.call()
		refused := call.RetryAt.IsZero()
		timeout := n.timeout
		if undo {
			timeout = undoTimeout
		}
		switch n.kind {
		case kindStep, kindChild:
			call.Attempts = 0
			call.Deadline = d.now.Add(timeout)
			switch {
			case refused && undo:
				record.UndoRound++
			case refused:
				record.Round++
			}
			d.send(n, record)
			calls++
		case kindLocal:
			call.Attempts, call.RetryAt, call.Deadline = 0, d.now, d.now.Add(timeout)
			calls++
		case kindAwait, kindLock:
			call.Deadline = d.now.Add(timeout)
		default: // it waits for other nodes, or for a moment
		}
	}
	return calls
}

// answerFor answers a step in its participant's place.
func (d *decision) answerFor(o Order) error {
	record := d.record(o.Step)
	if record == nil {
		return d.noStep(o.Step)
	}
	waiting, undo := record.awaits()
	n, at, ok := d.program.locate(o.Step)
	if !ok || !waiting {
		return refuse("step_not_waiting", "step %s is %s: only a step that is waited for can be skipped or completed", o.Step, record.Status)
	}
	if n.kind == kindForEach || n.kind == kindDecide {
		return refuse("step_not_waiting", "%s is a %s: name one of the steps inside that are waited for", o.Step, n.kind)
	}
	if o.Verb == Complete {
		if len(o.Data) > 0 && !json.Valid(o.Data) {
			return refuse("invalid_data", "the data is not JSON")
		}
		if undo {
			d.undone(record, o.Data)
			return nil
		}
		if err := d.fold(n, at, o.Data); err != nil {
			return refuse("invalid_data", "the saga cannot take that as the reply of %s: %v", o.Step, err)
		}
		record = d.record(o.Step)
		record.Do.settled(o.Data)
	} else if undo {
		d.undone(record, nil)
		return nil
	} else {
		record.Do.settled(nil)
	}
	d.done(record)
	d.Trouble = nil
	return nil
}

func (d *decision) noStep(step string) error {
	if step == "" {
		return refuse("step_not_found", "name the step")
	}
	return refuse("step_not_found", "the saga has not come to a step %s", step)
}
