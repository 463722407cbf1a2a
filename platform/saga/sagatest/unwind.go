package sagatest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// unwindSeeds is how many runs Unwind makes for each step: what is made up differs
// between them, and so may the way that a saga takes.
const unwindSeeds = 4

// Unwind has each step of the saga rejected in turn, and in turn be silent until it
// is undone. Every compensation is delivered twice, and that of a silent step
// before its command. Whatever was done must be undone, once and in the right
// order, and what comes after its undo must have no effect.
func Unwind(t testing.TB, definition saga.Compiler, options ...Option) {
	t.Helper()
	s := newSetup(definition, options)
	if s.err != nil {
		t.Fatal(s.err)
	}
	s.tellLocals(t)
	for _, silent := range []bool{false, true} {
		for seed := range uint64(unwindSeeds) {
			for at := 1; ; at++ {
				var trace strings.Builder
				w := newWorld(s.run(), seed, weather{sagas: 1, steps: patience})
				w.tracer = func(line string) { trace.WriteString(line + "\n") }
				w.unwinding = &unwinding{at: at, silent: silent}
				err := w.play()
				if err == nil {
					err = w.unwinding.judge(w)
				}
				if err != nil {
					t.Fatalf("%s: %v\n%s", w.unwinding, err, &trace)
					return
				}
				if w.unwinding.step == "" {
					break // it has no more steps
				}
			}
		}
	}
}

// unwinding is what goes wrong in a run of [Unwind].
type unwinding struct {
	at     int  // the command that fails, counted from 1
	silent bool // it is not rejected, but comes late
	seen   map[string]bool
	id     string // of the command that fails
	step   string
	turns  bool // the saga has to compensate because of it
	held   []message
}

func (u *unwinding) String() string {
	if u.silent {
		return "with silence at " + u.step
	}
	return "with a rejection at " + u.step
}

// fails reports whether that is the command that fails, at its first coming.
func (u *unwinding) fails(w *world, saga, id, step string) bool {
	if u == nil || u.seen[id] {
		return u != nil && u.id == id // of a local step, whose transaction did not commit
	}
	if u.seen == nil {
		u.seen = make(map[string]bool)
	}
	u.seen[id] = true
	if len(u.seen) != u.at {
		return false
	}
	in := &w.database.rows[saga].saga
	u.id, u.step = id, step
	u.turns = !in.Pivoted || !u.silent && w.pivots(in.Name, step)
	return true
}

// silence reports whether steps are silent; local ones cannot be.
func (u *unwinding) silence() bool { return u != nil && u.silent }

// pivots reports whether a record is of the pivot.
func (w *world) pivots(name, record string) bool {
	way := w.shapes[name].nodes[nodeName(record)]
	return len(way) > 0 && way[len(way)-1].node.Pivot
}

// hold keeps a command of the step that is silent, until it has been undone.
func (u *unwinding) hold(w *world, m message) bool {
	if u == nil || !u.silent || m.command.Undoes != "" {
		return false
	}
	again := u.seen[m.command.ID]
	switch {
	case again && (m.command.ID != u.id || !u.turns):
		return false
	case !again && !u.fails(w, m.sender, m.command.ID, m.command.Step):
		return false
	}
	u.held = append(u.held, m)
	return true
}

// release delivers what has been held, which must not matter any more.
func (u *unwinding) release(w *world, undone string) {
	if u == nil || undone != u.id {
		return
	}
	held := u.held
	u.held, u.turns = nil, u.turns && u.silent
	u.id = ""
	for _, m := range held {
		w.after(w.while(), func() { w.deliver(m) })
	}
}

func (u *unwinding) judge(w *world) error {
	in := &w.database.rows[w.accepted[0]].saga
	if u.step != "" && u.turns && in.Status != saga.Compensated {
		return fmt.Errorf("the saga ended %s", in.Status)
	}
	return nil
}

// unwound is a code that no handler of a rejection expects.
const unwound events.Code = "sagatest_unwind"
