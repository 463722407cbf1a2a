package saga

import (
	"encoding/json"
	"slices"
)

// unwind undoes what n has done, as far as it can, and reports whether nothing is
// left to undo.
func (d *decision) unwind(n *node, at *scope) (ended bool) {
	switch n.kind {
	case kindSequence:
		for _, child := range slices.Backward(n.children) {
			if !d.unwind(child, at) {
				return false
			}
		}
		return true
	case kindParallel:
		if n.inTurn {
			return d.unwindInTurn(n, at)
		}
		ended = true
		for _, child := range slices.Backward(n.children) {
			ended = d.unwind(child, at) && ended
		}
		return ended
	case kindChoice:
		record := d.record(at.path(n))
		return record == nil || record.Choice < 0 || d.unwind(n.children[record.Choice], at)
	case kindForEach:
		record := d.record(at.path(n))
		if record == nil {
			return true
		}
		active := 0
		for i := len(record.Items) - 1; i >= 0 && active < n.limit; i-- {
			if !d.unwind(n.children[0], at.inner(n, i)) {
				active++
			}
		}
		if active > 0 {
			return false
		}
		d.cancel(at.path(n))
		return true
	case kindDecide:
		record := d.record(at.path(n))
		if record == nil {
			return true
		}
		for turn, option := range slices.Backward(slices.Clone(record.Turns)) {
			if !d.unwind(n.children[slices.Index(n.options, option)], at.inner(n, turn)) {
				return false
			}
		}
		d.cancel(at.path(n))
		return true
	case kindAwait:
		if len(n.children) > 0 && !d.unwind(n.children[0], at) {
			return false
		}
		d.cancel(at.path(n))
		return true
	case kindSleep, kindLock:
		d.cancel(at.path(n))
		return true
	default:
		return d.unwindStep(n, at)
	}
}

// cancel ends waiting that has no effect to be undone.
func (d *decision) cancel(path string) {
	if record := d.record(path); record != nil && record.Status == StepRunning {
		record.Do.settled(nil)
		record.Status = StepCancelled
	}
}

// unwindInTurn undoes the steps of a parallel one after the other, the last that
// was done first.
func (d *decision) unwindInTurn(n *node, at *scope) (ended bool) {
	inside := make(map[string]bool)
	n.walk(func(m *node) { inside[m.name] = true })
	for {
		var last *StepRecord
		open := false
		for i := range d.Steps {
			r := &d.Steps[i]
			m, its, ok := d.program.locate(r.Name)
			if !ok || !inside[m.name] || !its.within(at, n.depth) {
				continue
			}
			switch {
			case r.Status == StepCompensating:
				open = true
			case !m.undoable() || m.kind == kindLocal && r.Status == StepRunning:
				d.cancel(r.Name)
			case d.mustWait(m, its): // for another one inside
			case m.inDoubt(r): // so later than what is done
				if last == nil || last.Status == StepDone {
					last = r
				}
			case r.Status == StepDone && (last == nil || last.Status == StepDone && last.Done < r.Done):
				last = r
			}
		}
		if open {
			return false
		}
		if last == nil {
			return true
		}
		m, scope, _ := d.program.locate(last.Name)
		if !d.unwindStep(m, scope) {
			return false
		}
	}
}

// unwindStep undoes a step that has run or may have, once.
func (d *decision) unwindStep(n *node, at *scope) (ended bool) {
	path := at.path(n)
	record := d.record(path)
	if record == nil {
		return true
	}
	switch record.Status {
	case StepDone, StepTimedOut, StepRunning:
		if !n.undoable() {
			d.cancel(path)
			break
		}
		if d.mustWait(n, at) {
			return false
		}
		if !d.beginUndo(n, at, record) {
			return false
		}
		if d.record(path).Status == StepCompensating {
			return false
		}
	case StepCompensating:
		return false
	default: // there is nothing to undo
	}
	// The handlers of a rejection ran before the step did, round by round.
	record = d.record(path)
	for round := record.Round; round >= 0; round-- {
		for _, child := range slices.Backward(n.children) {
			if !d.unwind(child, at.inner(n, round)) {
				return false
			}
		}
	}
	return true
}

// mustWait reports whether other steps are to be undone before n.
func (d *decision) mustWait(n *node, at *scope) bool {
	return slices.ContainsFunc(n.ordered, func(first ordered) bool { return d.undoing(first, at) })
}

// undoing reports whether anything of a node that comes first is still to be undone,
// in the same item, turn or round as at.
func (d *decision) undoing(first ordered, at *scope) bool {
	n := d.program.nodes[first.name]
	for i := range d.Steps {
		r := &d.Steps[i]
		if m, its, ok := d.program.locate(r.Name); !ok || m != n || !its.within(at, first.depth) {
			continue
		}
		if r.Status == StepCompensating || n.undoable() && (r.Status == StepDone || n.inDoubt(r)) {
			return true
		}
	}
	return false
}

// inDoubt reports whether the step may have run. A local step has run when it says
// so, and else not: its effect commits with it.
func (n *node) inDoubt(r *StepRecord) bool {
	return n.kind != kindLocal && (r.Status == StepRunning || r.Status == StepTimedOut)
}

// beginUndo sends the compensation of a step. It reports false when the saga's
// own code failed instead.
func (d *decision) beginUndo(n *node, at *scope, record *StepRecord) bool {
	path := record.Name
	if n.kind == kindLocal {
		if record.Status != StepDone { // its transaction did not commit
			d.cancel(path)
			return true
		}
		record.Status = StepCompensating
		record.Undo = CallRecord{RetryAt: d.now, Deadline: d.now.Add(undoTimeout)}
		d.recover(path)
		return true
	}
	inDoubt := record.Status != StepDone
	var request json.RawMessage
	err := protect(func() error {
		state, err := d.state(at)
		if err == nil {
			request, err = n.buildUndo(state, record.Do.Request, record.Do.Reply, inDoubt)
		}
		return sized(request, err)
	})
	if err != nil {
		d.stick(path, err)
		return false
	}
	record.Do.settled(record.Do.Reply)
	record.Status = StepCompensating
	record.Undo = CallRecord{Request: request, Deadline: d.now.Add(undoTimeout)}
	d.send(n, record)
	d.recover(path)
	return true
}
