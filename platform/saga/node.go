package saga

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
)

// kind of a node.
type kind string

const (
	kindSequence kind = "sequence"
	kindParallel kind = "parallel"
	kindStep     kind = "step"
	kindLocal    kind = "local step"
	kindChild    kind = "child saga"
	kindChoice   kind = "choice"
	kindForEach  kind = "for-each"
	kindAwait    kind = "await"
	kindSleep    kind = "sleep"
	kindDecide   kind = "decide"
	kindLock     kind = "lock"
)

// node is a compiled part of a flow: a Node without its type parameter and with
// every default filled in. User code takes the state as a pointer to it, or to the
// Each around it inside a for-each.
type node struct {
	kind     kind
	name     string // empty for a sequence and a parallel
	up       *node
	children []*node
	depth    int // how many indexes the path of a record of it has

	// Steps, children and local steps.
	do        events.Descriptor // of an await, the fact
	build     func(state any) ([]byte, error)
	fold      func(state any, reply []byte) error // nil: the reply is not needed
	undo      *events.Descriptor                  // nil: nothing to undo
	buildUndo func(state any, request, reply []byte, inDoubt bool) ([]byte, error)
	mayUndo   bool // the undo is dropped after the pivot
	local     localFunc
	localUndo localFunc
	noUndo    string
	undoAfter []string
	ordered   []ordered // of undoAfter, what has been found in another branch

	pivot       bool
	afterPivot  bool // certainly
	timeout     time.Duration
	timeoutCode events.Code
	retry       Retry
	handlers    []handler // beside children

	inTurn    bool                                 // of a parallel
	cases     []func(state any) bool               // of a choice, beside children
	otherwise bool                                 // the last child of a choice is its Else
	next      func(state any, turn int) string     // of a decide
	options   []string                             // beside children
	turns     int                                  //
	items     func(any) ([]json.RawMessage, error) // of a for-each
	enter     func(state any, item []byte, index int) (any, error)
	leave     func(state, inner any) (item []byte, err error)
	limit     int
	correlate func(payload []byte) (string, error) // of an await on an event
	until     func(state any) time.Time            // of a sleep
	claim     func(state any) claim                // of a lock
}

// ordered is a node that is undone before another one.
type ordered struct {
	name  string
	depth int // of the parallel around both: beyond it they may be repeated
}

// handler is a Handler without its type parameter.
type handler struct {
	code  events.Code
	retry bool
}

func (n *node) add(child *node) { n.children = append(n.children, child) }

// repeats reports whether what is inside of n may run more than once, so that
// the path of its records carries an index.
func (n *node) repeats() bool {
	return n.kind == kindForEach || n.kind == kindDecide || len(n.handlers) > 0
}

func (n *node) nest(up *node) {
	n.up = up
	if up != nil {
		n.depth = up.depth
		if up.repeats() {
			n.depth++
		}
	}
	for _, child := range n.children {
		child.nest(n)
	}
}

func (n *node) walk(visit func(*node)) {
	visit(n)
	for _, child := range n.children {
		child.walk(visit)
	}
}

// undoable reports whether there is anything to undo once n has run.
func (n *node) undoable() bool { return n.undo != nil || n.localUndo != nil }

// longest returns how long the node takes at most, as far as can be told: a
// for-each, a decide and an Until may take longer.
func (n *node) longest() time.Duration {
	var inner, most time.Duration
	for _, child := range n.children {
		one := child.longest()
		inner += one
		most = max(most, one)
	}
	if n.kind == kindSequence {
		return inner
	}
	return n.timeout + most
}

func decodeAs[S any](data []byte) (any, error) {
	s := new(S)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	return s, nil
}

func encodeJSON(state any) ([]byte, error) { return json.Marshal(state) }
