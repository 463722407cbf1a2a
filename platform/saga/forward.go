package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/countermand/countermand/events"
)

// run goes forward in n as far as it can and reports whether n has ended. When
// something fails the saga turns round, and what run returns means nothing.
func (d *decision) run(n *node, at *scope) (ended bool) {
	switch n.kind {
	case kindSequence:
		for _, child := range n.children {
			if !d.run(child, at) {
				return false
			}
		}
		return true
	case kindParallel:
		ended = true
		for _, child := range n.children {
			if !d.run(child, at) {
				ended = false
			}
			if d.Backward {
				return false
			}
		}
		return ended
	case kindChoice:
		return d.runChoice(n, at)
	case kindForEach:
		return d.runForEach(n, at)
	case kindDecide:
		return d.runDecide(n, at)
	case kindAwait:
		return d.runAwait(n, at)
	case kindSleep:
		return d.runSleep(n, at)
	case kindLock:
		return d.runLock(n, at)
	default:
		return d.runStep(n, at)
	}
}

// runStep sends the command of a step, or has a local step due, once.
func (d *decision) runStep(n *node, at *scope) (ended bool) {
	path := at.path(n)
	record := d.record(path)
	if record == nil {
		if !d.call(n, at, d.enter(n, at, StepRunning)) {
			d.Steps = d.Steps[:len(d.Steps)-1] // its own code failed, so it has not begun
			delete(d.index, path)
		}
		return false
	}
	switch record.Status {
	case StepDone:
		return true
	case StepRejected:
		for i, h := range n.handlers {
			if h.code != record.Code {
				continue
			}
			if !d.run(n.children[i], at.inner(n, record.Round)) {
				return false
			}
			if !h.retry {
				return true
			}
			record = d.record(path) // the handler may have added records
			round := record.Round + 1
			kept := *record
			*record = StepRecord{Name: record.Name, Kind: record.Kind, Status: StepRunning, Round: round, Origin: record.Origin}
			if !d.call(n, at, record) {
				*d.record(path) = kept
			}
			return false
		}
	default: // it is waited for
	}
	return false
}

// call makes the first call of a step. It reports false when the saga's own code
// failed instead.
func (d *decision) call(n *node, at *scope, record *StepRecord) bool {
	call := CallRecord{Deadline: d.now.Add(n.timeout)}
	if n.kind == kindLocal {
		call.RetryAt = d.now // the timers of the engine run it
		record.Do = call
	} else {
		request, err := d.build(n, at)
		if err != nil {
			d.fail(record.Name, err)
			return false
		}
		call.Request = request
		record.Do = call
		d.send(n, record)
	}
	d.Pivoted = d.Pivoted || n.pivot
	d.recover(record.Name)
	return true
}

func (d *decision) build(n *node, at *scope) (request json.RawMessage, err error) {
	err = protect(func() error {
		state, err := d.state(at)
		if err == nil {
			request, err = n.build(state)
		}
		return sized(request, err)
	})
	return request, err
}

// send issues the command that a step waits for, the first time or again.
func (d *decision) send(n *node, record *StepRecord) {
	call := record.call()
	call.Attempts++
	call.SentAt = d.now
	if !call.Deadline.IsZero() {
		call.Error = ""
	}
	call.RetryAt = d.now.Add(n.retry.pause(call.Attempts, d.ID+record.Name))
	effect := Effect{Step: record.Name, Data: call.Request, Attempt: call.Attempts}
	if record.Status == StepCompensating {
		effect.ID, effect.Type, effect.Topic = record.UndoID(d.ID), n.undo.Type, n.undo.Topic
		effect.Undoes = record.DoID(d.ID)
	} else {
		effect.ID, effect.Type, effect.Topic = record.DoID(d.ID), n.do.Type, n.do.Topic
	}
	d.effects = append(d.effects, effect)
}

// pause returns how long to wait after that attempt. The seed spreads it.
func (r Retry) pause(attempt int, seed string) time.Duration {
	pause := r.Min << min(max(attempt-1, 0), 20)
	if pause > r.Max || pause <= 0 {
		pause = r.Max
	}
	if r.Jitter > 0 {
		id := events.DeriveUUID(seed, strconv.Itoa(attempt))
		part := float64(uint16(id[0])<<8|uint16(id[1])) / 65536
		pause -= time.Duration(part * r.Jitter * float64(pause)).Truncate(time.Microsecond) // as precise as the history
	}
	return pause
}

func (d *decision) runChoice(n *node, at *scope) (ended bool) {
	record := d.record(at.path(n))
	if record == nil {
		choice := -1
		err := protect(func() error {
			state, err := d.state(at)
			if err != nil {
				return err
			}
			choice = slices.IndexFunc(n.cases, func(when func(any) bool) bool { return when(state) })
			return nil
		})
		if err != nil {
			d.fail(at.path(n), err)
			return false
		}
		if choice < 0 && n.otherwise {
			choice = len(n.children) - 1
		}
		record = d.enter(n, at, StepDone)
		record.Choice = choice
		d.recover(record.Name)
	}
	return record.Choice < 0 || d.run(n.children[record.Choice], at)
}

func (d *decision) runForEach(n *node, at *scope) (ended bool) {
	path := at.path(n)
	record := d.record(path)
	if record == nil {
		var items []json.RawMessage
		err := protect(func() error {
			state, err := d.state(at)
			if err == nil {
				items, err = n.items(state)
			}
			return err
		})
		if err != nil {
			d.fail(path, err)
			return false
		}
		record = d.enter(n, at, StepRunning)
		record.Items = items
		d.recover(path)
	}
	if record.Status == StepDone {
		return true
	}
	count, active := len(record.Items), 0
	for i := 0; i < count && active < n.limit; i++ {
		if !d.run(n.children[0], at.inner(n, i)) {
			active++
		}
		if d.Backward {
			return false
		}
	}
	if active > 0 {
		return false
	}
	d.record(path).Status = StepDone
	return true
}

func (d *decision) runDecide(n *node, at *scope) (ended bool) {
	path := at.path(n)
	if d.record(path) == nil {
		d.enter(n, at, StepRunning)
	}
	for {
		record := d.record(path)
		if record.Status == StepDone {
			return true
		}
		if turn := len(record.Turns); turn > 0 {
			option := slices.Index(n.options, record.Turns[turn-1])
			if !d.run(n.children[option], at.inner(n, turn-1)) || d.Backward {
				return false
			}
			record = d.record(path)
		}
		name := ""
		err := protect(func() error {
			state, err := d.state(at)
			if err != nil {
				return err
			}
			if name = n.next(state, len(record.Turns)); name == "" {
				return nil
			}
			if len(record.Turns) == n.turns {
				return fmt.Errorf("decide %s wants more than %d turns", n.name, n.turns)
			}
			if !slices.Contains(n.options, name) {
				return fmt.Errorf("decide %s has no option %q", n.name, name)
			}
			return nil
		})
		if err != nil {
			d.fail(path, err)
			return false
		}
		d.recover(path)
		if name == "" {
			record.Status = StepDone
			return true
		}
		record.Turns = append(slices.Clone(record.Turns), name)
	}
}

func (d *decision) runSleep(n *node, at *scope) (ended bool) {
	record := d.record(at.path(n))
	if record == nil {
		wake := d.now.Add(n.timeout)
		if n.until != nil {
			err := protect(func() error {
				state, err := d.state(at)
				if err == nil {
					wake = n.until(state)
				}
				return err
			})
			if err != nil {
				d.fail(at.path(n), err)
				return false
			}
		}
		record = d.enter(n, at, StepRunning)
		record.Do.Deadline = wake.UTC().Truncate(time.Microsecond) // as precise as the database
		d.recover(record.Name)
	}
	if record.Status == StepRunning && !d.now.Before(record.Do.Deadline) {
		record.Do.settled(nil)
		d.done(record)
	}
	return record.Status == StepDone
}

func (d *decision) runAwait(n *node, at *scope) (ended bool) {
	record := d.record(at.path(n))
	if record == nil {
		record = d.enter(n, at, StepRunning)
		record.Do.Deadline = d.now.Add(n.timeout)
	}
	switch record.Status {
	case StepDone:
		return true
	case StepTimedOut:
		return len(n.children) > 0 && d.run(n.children[0], at)
	case StepRunning:
		kept := slices.IndexFunc(d.Signals, func(s SignalRecord) bool { return s.Type == n.do.Type })
		if kept < 0 {
			return false
		}
		signal := d.Signals[kept]
		d.Signals = slices.Delete(slices.Clone(d.Signals), kept, kept+1)
		if err := d.fold(n, at, signal.Data); err != nil {
			d.fail(record.Name, err)
			return false
		}
		record = d.record(at.path(n))
		record.Do.Request, _ = json.Marshal(signal.ID) // which one it was
		record.Do.settled(signal.Data)
		d.done(record)
		d.recover(record.Name)
		return true
	default:
		return false
	}
}

// fold takes a reply or a signal into the state; on an error it stays as it was.
func (d *decision) fold(n *node, at *scope, data []byte) error {
	if n.fold == nil {
		return nil
	}
	err := protect(func() error {
		state, err := d.state(at)
		if err != nil {
			return err
		}
		if err := n.fold(state, data); err != nil {
			return err
		}
		return d.folded(at, state)
	})
	if err != nil {
		d.forget()
	}
	return err
}
