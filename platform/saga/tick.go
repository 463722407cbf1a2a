package saga

import (
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
)

// tick acts on what is due: deadlines, the next attempts, the end of sleep. Local
// steps are not run here but by the engine, which tells how that ended.
func (d *decision) tick() {
	if d.Status == "" || d.Status.Final() || d.Paused {
		return
	}
	if !d.Backward && !d.Pivoted && !d.Deadline.IsZero() && !d.now.Before(d.Deadline) {
		d.applied = true
		d.turn("", "deadline_exceeded", fmt.Sprintf("not done within %s", d.Deadline.Sub(d.CreatedAt)))
	}
	for i := range d.Steps {
		record := &d.Steps[i]
		waiting, undo := record.awaits()
		if !waiting || d.Backward && !undo {
			continue
		}
		call := record.call()
		due := earliest(call.RetryAt, call.Deadline)
		n, _, ok := d.program.locate(record.Name)
		if !ok || due.IsZero() || d.now.Before(due) {
			continue
		}
		switch n.kind {
		case kindSleep:
			d.applied = true // it wakes up when the saga goes on
		case kindAwait, kindLock:
			d.applied = true
			d.giveUp(n, record)
		case kindLocal: // due here is the end of its time only, before its next attempt
			if d.now.Before(call.RetryAt) && d.unanswered(n, call) {
				d.applied = true
				d.giveUp(n, record)
			}
		case kindStep, kindChild:
			d.applied = true
			if !d.unanswered(n, call) || !d.giveUp(n, record) {
				d.send(n, record)
			}
		default: // the engine runs local steps, and the others wait for nodes inside
		}
	}
}

// unanswered reports whether a call has had its time or its attempts. One that is
// repeated beyond that has no deadline any more.
func (d *decision) unanswered(n *node, call *CallRecord) bool {
	return !call.Deadline.IsZero() &&
		(!d.now.Before(call.Deadline) || n.retry.Attempts > 0 && call.Attempts >= n.retry.Attempts)
}

// noAnswer is the code of a step that has to succeed and has had its time.
const noAnswer events.Code = "no_answer"

// giveUp ends the wait for a step that has had its time. It reports false when
// the step must succeed and is to be tried on.
func (d *decision) giveUp(n *node, record *StepRecord) bool {
	call := record.call()
	message := fmt.Sprintf("no answer within %s", n.timeout)
	if d.now.Before(call.Deadline) {
		message = fmt.Sprintf("no answer after %d attempts", call.Attempts)
	}
	switch {
	case call.Error != "":
		message = "it kept failing: " + call.Error
	case n.kind == kindAwait:
		message = fmt.Sprintf("nothing came within %s", n.timeout)
	case n.kind == kindLock:
		message = fmt.Sprintf("no turn within %s", n.timeout)
	}
	_, undo := record.awaits()
	if n.kind == kindAwait && len(n.children) > 0 {
		call.settled(nil)
		record.Status = StepTimedOut
		return true
	}
	if undo || d.Pivoted {
		call.Deadline = time.Time{}
		if n.kind == kindStep || n.kind == kindChild {
			message = fmt.Sprintf("no answer after %d attempts", call.Attempts)
		}
		call.Error, record.Code = clip(message), noAnswer
		d.Trouble = or(d.Trouble, trouble(record))
		return false
	}
	call.settled(nil)
	record.Status = StepTimedOut
	d.turn(record.Name, n.timeoutCode, message)
	return true
}
