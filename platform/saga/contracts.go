package saga

import "github.com/countermand/countermand/events"

// Contracts are those of one node of a program.
type Contracts struct {
	// Node is its name, Kind as of [GraphNode].
	Node string
	Kind string
	// Do is the command of a step or of a child saga, or the fact that is awaited.
	Do events.Descriptor
	// Undo is the command of the compensation; nil when there is none.
	Undo *events.Descriptor
	// Undoable says that what the node has done is undone when the saga compensates.
	Undoable bool
}

// StartContract returns the contract of the command that begins the saga.
func (p *Program) StartContract() events.Descriptor { return p.start }

// Contracts returns those of the steps, child sagas, local steps and awaits, as
// they are written. Tools that stand in for participants need them.
func (p *Program) Contracts() []Contracts {
	var all []Contracts
	for _, n := range p.order {
		switch n.kind {
		case kindStep, kindChild, kindLocal, kindAwait:
			all = append(all, Contracts{Node: n.name, Kind: string(n.kind), Do: n.do, Undo: n.undo, Undoable: n.undoable()})
		default: // it has none
		}
	}
	return all
}
