package sagatest

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

// database is what engines and relays share: one row for each saga, written only
// at the revision that was read, and an outbox.
type database struct {
	rows    map[string]*row
	order   []string
	outbox  []letter       // by number, without those that have been published
	numbers int            // of the outbox, taken when a transaction begins
	unsent  map[int]string // what was committed and has not left
	cursor  int            // of a relay that is built wrong
	orders  int
	replies int
	relay   bool // it is to run
}

// row is a saga as it is stored. revision 0 is one that does not exist.
type row struct {
	saga  saga.Instance
	log   saga.Log
	armed time.Time // when its timer is to fire
}

// letter is a row of the outbox.
type letter struct {
	number  int
	message message
}

// engine decides and writes, as [saga.Engine] does. It keeps nothing in memory, but
// between its reading and its writing anything may happen.
type engine struct {
	skew time.Duration
	// stale is the last saga that it has seen, for an engine that is built wrong.
	stale *saga.Instance
}

// notFoundMax is how often a message is tried whose saga does not exist.
const notFoundMax = 10

// transaction is what an engine has decided and not written yet.
type transaction struct {
	id        string
	program   *saga.Program
	before    int64 // revision
	next      saga.Instance
	verdict   saga.Verdict
	now       time.Time
	letters   []letter
	label     string
	claims    []string   // steps that wait for a lock
	local     *act       // effect of a local step
	savepoint *savepoint // in which that is
	undo      bool
	refused   bool            // the local step said no
	again     func()          // decides anew, when another engine was faster
	settle    func(done bool) // acknowledges, or has it all done again
}

// handle takes in a message.
func (e *engine) handle(w *world, m message) {
	if _, exists := w.database.rows[m.target]; !exists && m.started == "" {
		if m.attempt++; m.attempt < notFoundMax && !w.healed {
			w.redeliver(m)
		}
		return
	}
	acknowledged := w.setup.flaw == AckBeforeCommit
	e.decide(w, m.target, m.started, m.input, m.label, func(done bool) {
		if !done && !acknowledged {
			w.redeliver(m)
		}
	})
}

// fire acts on a timer. One that could not be handled stays due.
func (e *engine) fire(w *world, id string, armed time.Time) {
	row := w.database.rows[id]
	if !row.armed.Equal(armed) {
		return // it has been set anew
	}
	row.armed = time.Time{}
	in := &row.saga
	due := in.Due()
	if due.IsZero() {
		return
	}
	again := func(done bool) {
		if !done && w.setup.flaw != TimerLost {
			w.arm(id)
		}
	}
	now := w.now.Add(e.skew)
	if now.Before(due) {
		row.armed = due
		w.at(due.Add(-e.skew), func() { e.fire(w, id, due) })
		return
	}
	if record := in.DueLocal(now); record != nil {
		e.local(w, id, record.Name, again)
		return
	}
	e.decide(w, id, "", saga.Input{Tick: true}, "timer", again)
}

// grant gives a saga its lock.
func (e *engine) grant(w *world, id, step string) {
	e.decide(w, id, "", saga.Input{Lock: &saga.LockInput{Step: step}}, "lock "+step, func(done bool) {
		if !done {
			w.after(time.Second, func() { e.grant(w, id, step) })
		}
	})
}

// local runs a local step: its effect commits with the transition. The engine holds
// the saga from before it runs the code until it has written, so nobody is faster.
func (e *engine) local(w *world, id, step string, settle func(bool)) {
	w.after(e.rest(w, id, "local step "+step), func() {
		in := w.database.rows[id].saga
		record := in.DueLocal(w.now.Add(e.skew))
		if record == nil {
			settle(true) // another engine was at it
			return
		}
		e.runLocal(w, &in, *record, settle)
	})
}

func (e *engine) runLocal(w *world, in *saga.Instance, record saga.StepRecord, settle func(bool)) {
	id, undo, label := in.ID, record.Status == saga.StepCompensating, "local step "+record.Name
	w.tracef("%s: %s is run", w.name(id), record.Name)
	input, at, err := w.attempt(in, record)
	if err != nil {
		w.broken(fmt.Errorf("saga %s: %w", w.name(id), err))
		return
	}
	// What goes wrong does so after it has run, so that it has no trace all the same.
	wrong := saga.LocalInput{Step: record.Name, Undo: undo}
	switch {
	case w.happens(failing), w.broke(id, record.Name):
		wrong.Error = "it fails"
		label += " fails"
	case !undo && !w.unwinding.silence() && w.unwinding.fails(w, id, record.DoID(id), record.Name):
		wrong.Rejection = rejected(unwound)
		label += " says no"
	case !undo && w.happens(reject), undo && w.happens(refuse):
		wrong.Rejection = rejected("refused")
		label += " says no"
	}
	if wrong.Error != "" || wrong.Rejection != nil {
		input = wrong
		w.broken(at.rollback())
		at = nil
	}
	t := e.begin(w, id, "", saga.Input{Local: &input}, label, settle)
	t.refused, t.savepoint = input.Rejection != nil, at
	if input.Error == "" && input.Rejection == nil {
		t.local, t.undo = &act{saga: record.DoID(id), step: record.Name}, undo
	}
	e.write(w, t)
}

// broke reports whether a local step of a saga fails every time until all heals.
func (w *world) broke(id, step string) bool {
	key := id + step
	mood, drawn := w.moods[key]
	if !drawn {
		mood = faults
		if w.happens(failing) {
			mood = failing
		}
		w.moods[key] = mood
	}
	return mood == failing && !w.healed
}

func (e *engine) decide(w *world, id, started string, input saga.Input, label string, settle func(bool)) {
	t := e.begin(w, id, started, input, label, settle)
	t.again = func() { e.decide(w, id, started, input, label, settle) }
	e.later(w, t)
}

// begin reads a saga and decides.
func (e *engine) begin(w *world, id, started string, input saga.Input, label string, settle func(bool)) *transaction {
	var before saga.Instance
	t := &transaction{id: id, label: label, settle: settle, now: w.now.Add(e.skew).Truncate(time.Microsecond)}
	if r, exists := w.database.rows[id]; exists {
		before, t.before = r.saga, r.log.Revision()
		t.program = w.program(before.Name)
	} else {
		t.program = w.starts[started]
	}
	var effects []saga.Effect
	t.next, effects, t.verdict = t.program.Decide(before, input, t.now)
	if w.turns%8 == 0 { // now and then, because it takes time
		again, effects2, verdict := t.program.Decide(before, input, t.now)
		if verdict != t.verdict || !reflect.DeepEqual(effects, effects2) || !reflect.DeepEqual(again, t.next) {
			w.broken(fmt.Errorf("%s: the same input gives two decisions: the definition is not pure", label))
		}
	}
	w.broken(w.lawful(&before, t, input, effects))
	for _, effect := range effects {
		if effect.Type == "" { // a lock, which it gets in a while
			t.claims = append(t.claims, effect.Step)
			continue
		}
		w.database.numbers++
		t.letters = append(t.letters, letter{w.database.numbers, w.envelope(&t.next, effect, t.now)})
	}
	return t
}

// later writes a transaction when it has come to that.
func (e *engine) later(w *world, t *transaction) {
	if w.setup.flaw == PublishBeforeCommit {
		for _, l := range t.letters {
			w.publish(l.message)
		}
		t.letters = nil
	}
	w.after(e.rest(w, t.id, t.label), func() { e.write(w, t) })
}

// rest is how long it takes an engine to go on.
func (e *engine) rest(w *world, id, label string) time.Duration {
	wait := w.while()
	if w.happens(pause) {
		wait = w.long()
		w.tracef("%s: the engine stands still for %s before it writes: %s", w.name(id), wait, label)
	}
	return wait
}

// write commits a transaction, unless the saga has changed since it was read.
func (e *engine) write(w *world, t *transaction) {
	if w.happens(crashBeforeCommit) {
		w.tracef("%s: crash before commit: %s", w.name(t.id), t.label)
		w.broken(t.savepoint.rollback())
		t.settle(false)
		w.rescue(e)
		return
	}
	unknown, committed := w.happens(unknownCommit), w.rng.IntN(2) == 0
	if unknown && !committed {
		w.tracef("%s: no answer from the database, and nothing was written: %s", w.name(t.id), t.label)
		w.broken(t.savepoint.rollback())
		t.settle(false)
		return
	}
	r, exists := w.database.rows[t.id]
	if t.verdict == saga.Applied {
		if exists && r.log.Revision() != t.before && w.setup.flaw != NoRevisionGuard {
			w.tracef("%s: another engine was faster: %s", w.name(t.id), t.label)
			if t.again != nil {
				t.again()
			} else {
				t.settle(false)
			}
			return
		}
		if !exists {
			r = &row{}
			w.database.rows[t.id] = r
			w.database.order = append(w.database.order, t.id)
		}
		w.tracef("%s: %s: %s, sends %d", w.name(t.id), t.label, t.next.Status, len(t.letters))
		if err := t.savepoint.commit(); err != nil {
			w.broken(fmt.Errorf("saga %s: %s cannot be committed: %w", w.name(t.id), t.label, err))
		}
		if t.local != nil {
			w.broken(w.took(t))
		}
		w.broken(r.log.Append(t.next, saga.Cause{Kind: "test"}, t.now))
		if t.refused && w.unwinding != nil {
			w.unwinding.id = ""
		}
		r.saga = t.next
		w.arm(t.id)
		for _, claim := range t.claims {
			w.after(w.while()+w.long(), func() { e.grant(w, t.id, claim) })
		}
	} else if len(t.letters) == 0 {
		w.tracef("%s: %s: ignored", w.name(t.id), t.label)
	}
	if len(t.letters) > 0 {
		for _, l := range t.letters {
			w.database.unsent[l.number] = w.label(l.message)
		}
		w.database.put(t.letters)
		w.wakeRelay()
	}
	e.stale = &t.next
	if unknown || w.happens(crashAfterCommit) {
		w.tracef("%s: crash after commit: %s", w.name(t.id), t.label)
		t.settle(false)
		w.rescue(e)
		return
	}
	t.settle(true)
}

// took records the effect of a local step.
func (w *world) took(t *transaction) error {
	if t.undo {
		return w.ledger.undo(t.local.saga, t.id, t.local.step)
	}
	return w.ledger.do(t.local.saga, t.id, t.local.step)
}

// rescue is what no engine does: after a crash it issues what it remembers.
func (w *world) rescue(e *engine) {
	if w.setup.flaw != BlindRescue || e.stale == nil || e.stale.Status.Final() {
		return
	}
	stale := *e.stale
	w.after(w.long(), func() {
		now := w.now
		_, effects, _ := w.program(stale.Name).Decide(stale, saga.Input{Tick: true}, now)
		for _, effect := range effects {
			w.publish(w.envelope(&stale, effect, now))
		}
	})
}

// arm plans the timer of a saga.
func (w *world) arm(id string) {
	row := w.database.rows[id]
	due := row.saga.Due()
	if due.IsZero() || due.Equal(row.armed) {
		return
	}
	row.armed = due
	e := &w.engines[w.rng.IntN(len(w.engines))]
	at := due
	if at.Before(w.now) {
		at = w.now
	}
	w.at(at.Add(w.while()), func() { e.fire(w, id, due) })
}

func (w *world) program(name string) *saga.Program {
	for _, p := range w.setup.programs {
		if p.Name == name {
			return p
		}
	}
	panic("sagatest: no program " + name)
}

// put makes the rows of a transaction visible: in the order of their numbers, which
// is not that of the commits.
func (d *database) put(letters []letter) {
	d.outbox = append(d.outbox, letters...)
	for i := len(d.outbox) - 1; i > 0 && d.outbox[i].number < d.outbox[i-1].number; i-- {
		for j := i; j > 0 && d.outbox[j].number < d.outbox[j-1].number; j-- {
			d.outbox[j], d.outbox[j-1] = d.outbox[j-1], d.outbox[j]
		}
	}
}

func (w *world) wakeRelay() {
	if !w.database.relay {
		w.database.relay = true
		w.after(w.while(), w.runRelay)
	}
}

// runRelay publishes what the outbox holds and deletes it, row by row.
func (w *world) runRelay() {
	d := &w.database
	d.relay = false
	for len(d.outbox) > 0 {
		l := d.outbox[0]
		if w.setup.flaw == CursorRelay && l.number <= d.cursor {
			d.outbox = d.outbox[1:]
			continue
		}
		if w.happens(crashBeforePublish) {
			w.tracef("relay: crash before publish: %s", w.label(l.message))
			w.restartRelay()
			return
		}
		w.tracef("relay: %s", w.label(l.message))
		delete(d.unsent, l.number)
		w.publish(l.message)
		if w.happens(crashAfterPublish) {
			w.tracef("relay: crash after publish: %s", w.label(l.message))
			w.restartRelay()
			return
		}
		d.cursor = max(d.cursor, l.number)
		d.outbox = d.outbox[1:]
	}
}

func (w *world) restartRelay() {
	w.database.relay = true
	w.after(time.Second+w.long(), w.runRelay)
}

// lawful tells what a single decision may not do.
func (w *world) lawful(before *saga.Instance, t *transaction, input saga.Input, effects []saga.Effect) error {
	next := &t.next
	what := fmt.Sprintf("%s: %s", w.name(t.id), t.label)
	if t.verdict == saga.Ignored {
		for _, effect := range effects {
			if effect.Answers == "" && effect.Type != "" {
				return fmt.Errorf("%s: an ignored input sends a command", what)
			}
		}
	} else if before.Status.Final() && input.Recall == nil {
		return fmt.Errorf("%s: it goes on after it ended %s", what, before.Status)
	}
	switch {
	case next.Status == saga.Stuck && (next.Trouble == nil || next.Trouble.Code == ""):
		return fmt.Errorf("%s: it is stuck and does not say why", what)
	case next.Status != saga.Stuck && next.Trouble != nil && !next.Status.Final():
		return fmt.Errorf("%s: it is %s and in trouble", what, next.Status)
	case next.Status == saga.Running && next.Backward, next.Status == saga.Compensating && !next.Backward, next.Backward && next.Pivoted:
		return fmt.Errorf("%s: status %s, backward %v, past the pivot %v", what, next.Status, next.Backward, next.Pivoted)
	case next.Failure != nil && next.Failure.Code == "definition_failed", next.Trouble != nil && next.Trouble.Code == "definition_failed":
		return fmt.Errorf("%s: the definition's own code failed: %w", what, ownCode(next))
	case next.Status != "" && !next.Status.Final() && !next.Paused && next.Status != saga.Stuck && next.Due().IsZero():
		return fmt.Errorf("%s: it is %s, and nothing is ever due for it", what, next.Status)
	}
	if due := next.Due(); input.Tick && !due.IsZero() && !t.now.Before(due) && next.DueLocal(t.now) == nil {
		return fmt.Errorf("%s: its timer is due at once again, without end", what)
	}
	if before.Backward && next.Backward {
		for _, effect := range effects {
			if effect.Undoes == "" && effect.Answers == "" {
				return fmt.Errorf("%s: it compensates and calls %s", what, effect.Step)
			}
		}
	}
	return nil
}

func ownCode(in *saga.Instance) error {
	f := in.Failure
	if in.Trouble != nil {
		f = in.Trouble
	}
	return errors.New(f.Step + ": " + f.Message)
}
