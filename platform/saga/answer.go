package saga

import (
	"encoding/json"
	"slices"

	"github.com/countermand/countermand/events"
)

// reply takes an answer in, if it is an awaited one.
func (d *decision) reply(input ReplyInput) {
	if d.Status.Final() {
		return
	}
	for i := range d.Steps {
		record := &d.Steps[i]
		waiting, undo := record.awaits()
		if !waiting || record.Do.Request == nil && record.Undo.Request == nil { // a local step, a sleep, an await
			continue
		}
		id := record.UndoID
		if !undo {
			id = record.DoID
		}
		if id(d.ID) != input.CommandID {
			continue
		}
		n, at, ok := d.program.locate(record.Name)
		switch {
		case !ok:
		case input.Rejection != nil && undo:
			d.refused(record, input.Rejection, "its compensation was refused: ")
		case input.Rejection != nil:
			d.rejected(n, record, input.Rejection)
		case undo:
			d.undone(record, input.Data)
		default:
			d.replied(n, at, record, input.Data)
		}
		return
	}
}

func (d *decision) undone(record *StepRecord, reply []byte) {
	d.applied = true
	record.Undo.settled(reply)
	record.Status = StepCompensated
	d.recover(record.Name)
}

func (d *decision) replied(n *node, at *scope, record *StepRecord, reply []byte) {
	d.applied = true
	name := record.Name
	if err := d.fold(n, at, reply); err != nil {
		if d.Pivoted {
			d.stick(name, err) // the reply is lost; an operator can give one
			return
		}
		// The step has run, so it is undone with the others.
		d.turn(name, "definition_failed", "the saga's own code failed")
	}
	record = d.record(name)
	record.Do.settled(reply)
	d.done(record)
	d.recover(name)
}

func (d *decision) rejected(n *node, record *StepRecord, rejection *events.Rejection) {
	if d.Pivoted && !n.pivot {
		handled := slices.ContainsFunc(n.handlers, func(h handler) bool { return h.code == rejection.Code })
		if !handled {
			d.refused(record, rejection, "refused after the pivot: ")
			return
		}
	}
	d.applied = true
	if n.pivot {
		d.Pivoted = false
	}
	record.Do.settled(nil)
	record.Status, record.Code = StepRejected, rejection.Code
	d.recover(record.Name)
	if !slices.ContainsFunc(n.handlers, func(h handler) bool { return h.code == rejection.Code }) {
		d.turn(record.Name, rejection.Code, rejection.Message)
	}
}

// refused makes the saga stuck on a command that has to succeed. It is not
// repeated, since it would get the same answer.
func (d *decision) refused(record *StepRecord, rejection *events.Rejection, why string) {
	call := record.call()
	if call.RetryAt.IsZero() {
		return // a copy of the rejection
	}
	d.applied = true
	call.settled(nil)
	call.Error, record.Code = clip(why+rejection.Message), rejection.Code
	d.Trouble = trouble(record)
}

// signalsMax bounds what a saga keeps for later.
const signalsMax = 100

// signal keeps a signal until it is awaited, which may be at once.
func (d *decision) signal(input SignalInput) {
	if d.Status == "" || d.Status.Final() || d.Backward {
		return
	}
	known := slices.ContainsFunc(d.program.order, func(n *node) bool { return n.kind == kindAwait && n.do.Type == input.Type })
	if !known || len(d.Signals) >= signalsMax {
		return
	}
	if slices.ContainsFunc(d.Signals, func(s SignalRecord) bool { return s.ID == input.ID }) {
		return
	}
	for i := range d.Steps { // one that was taken already
		var taken string
		if d.Steps[i].Kind == string(kindAwait) && json.Unmarshal(d.Steps[i].Do.Request, &taken) == nil && taken == input.ID {
			return
		}
	}
	d.applied = true
	d.Signals = append(slices.Clone(d.Signals), SignalRecord{ID: input.ID, Type: input.Type, Data: input.Data})
}

// recall has a child saga undone for its parent, whatever its state.
func (d *decision) recall(input RecallInput) {
	switch {
	case d.Status == "":
		// The start command comes later, or never: it must find that it is undone.
		d.applied = true
		d.found(input.ID, input.Parent, input.ReplyTo)
		d.Status, d.Backward, d.Failure = Compensated, true, &Failure{Code: "revoked", Message: "undone before it started"}
		d.answer(input.Command)
	case d.Status == Compensated || d.Status == Abandoned:
		d.answer(input.Command)
	case d.Pivoted:
		effect := Effect{
			Type: events.CompensationType(d.StartType), Topic: input.ReplyTo, Answers: input.Command,
			Rejection: &events.Rejection{Code: "past_pivot", Message: "the child saga has passed its pivot and cannot be undone"},
		}
		d.effects = append(d.effects, effect)
	case d.Recalled == "":
		d.applied = true
		d.Recalled = input.Command
		if d.Status == Completed {
			d.Status, d.Result = Running, nil
		}
		if !d.Backward {
			d.turn("", "recalled", "its parent saga compensates")
		}
	}
}

// localEnded takes in how an attempt of a local step ended.
func (d *decision) localEnded(input LocalInput) {
	record := d.record(input.Step)
	if record == nil || d.Status.Final() {
		return
	}
	waiting, undo := record.awaits()
	n, at, ok := d.program.locate(input.Step)
	if !ok || !waiting || undo != input.Undo || n.kind != kindLocal {
		return
	}
	d.applied = true
	call := record.call()
	call.Attempts++
	call.SentAt = d.now
	call.Error = ""
	switch {
	case input.Rejection != nil && undo:
		d.refused(record, input.Rejection, "its compensation was refused: ")
	case input.Rejection != nil:
		d.rejected(n, record, input.Rejection)
	case input.Error != "":
		d.localFailed(n, record, input.Error)
	default:
		d.forget()
		d.State = input.State
		for name, items := range input.Items {
			if each := d.record(name); each != nil {
				each.Items = items
			}
		}
		if undo {
			d.undone(record, nil)
			return
		}
		d.replied(&node{kind: kindLocal}, at, record, nil)
	}
}

// localFailed has a local step tried again, or gives it up.
func (d *decision) localFailed(n *node, record *StepRecord, message string) {
	call := record.call()
	call.Error = clip(message)
	call.RetryAt = d.now.Add(n.retry.pause(call.Attempts, d.ID+record.Name))
	if d.unanswered(n, call) {
		d.giveUp(n, record)
	}
}
