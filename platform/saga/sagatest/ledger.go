package sagatest

import "fmt"

// ledger is what really happened at the participants, whatever anybody says of it.
type ledger struct {
	turns int
	acts  map[string]*act // by the id of the command that does
	order []string
}

// act is what became of one command.
type act struct {
	saga, step   string
	done, undone int // when, from 1; 0 for not
	revoked      int // when its undo came before it
}

func newLedger() *ledger { return &ledger{acts: make(map[string]*act)} }

func (l *ledger) act(id, saga, step string) *act {
	l.turns++
	a, ok := l.acts[id]
	if !ok {
		a = &act{saga: saga, step: step}
		l.acts[id] = a
		l.order = append(l.order, id)
	}
	return a
}

// do records that the command took effect.
func (l *ledger) do(id, saga, step string) error {
	switch a := l.act(id, saga, step); {
	case a.done > 0:
		return fmt.Errorf("%s was done twice", step)
	case a.revoked > 0:
		return fmt.Errorf("%s was done after its undo had come: nobody will undo it", step)
	default:
		a.done = l.turns
		return nil
	}
}

// undo records that the effect of the command was taken back.
func (l *ledger) undo(id, saga, step string) error {
	switch a := l.act(id, saga, step); {
	case a.undone > 0:
		return fmt.Errorf("%s was undone twice", step)
	case a.done == 0:
		return fmt.Errorf("%s was undone, and had not been done", step)
	default:
		a.undone = l.turns
		return nil
	}
}

// revoke records that the undo of the command came before it.
func (l *ledger) revoke(id, saga, step string) {
	if a := l.act(id, saga, step); a.revoked == 0 {
		a.revoked = l.turns
	}
}
