package saga

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
)

// Definition describes a saga over one state type S. S is encoded as JSON and
// holds what later nodes need of earlier replies; it is written by folds only.
// A definition is a value: build it as a literal and do not change it.
type Definition[S any] struct {
	// Name is lower-case with dashes, such as "checkout".
	Name string
	// Version counts from 1. Running sagas keep the version they began with,
	// unless a newer one takes them over; see Takes.
	Version int
	// Start says which command begins the saga; make it with [On].
	Start Start[S]
	// Flow is what the saga does.
	Flow Node[S]
	// Deadline bounds the whole saga, from its start: 0 for none. A saga that has
	// not passed its pivot by then compensates with the code deadline_exceeded;
	// past the pivot the deadline says nothing any more.
	Deadline time.Duration
	// Limit bounds how many sagas run at the same time, and how fast they begin.
	Limit Limit
	// Attributes are what operators find the saga by, besides its id, name, status
	// and age: at most 8 short values, read from the state after every transition.
	Attributes func(state S) map[string]string
	// Retention is how long a saga is kept after its end: 30 days by default.
	Retention time.Duration
	// Takes lists older versions whose running sagas this version takes over; make
	// them with [From].
	Takes []Takeover[S]
}

// Node is a part of a flow: [Step], [Local], [Child], [Sequence], [Parallel],
// [Choice], [ForEach], [Await], [Sleep], [Lock] or [Decide].
type Node[S any] interface{ compile(c typed[S]) *node }

// Sequence runs its nodes one after the other, and undoes them in reverse.
type Sequence[S any] []Node[S]

func (s Sequence[S]) compile(c typed[S]) *node {
	n := &node{kind: kindSequence}
	for _, part := range s {
		n.add(compileNode(c, part))
	}
	return n
}

// Start is how a saga begins. Make it with [On].
type Start[S any] struct {
	command events.Descriptor
	begin   func(id string, request []byte) (any, error)
	result  func(state any) ([]byte, error)
}

// On begins a saga with each command of that contract. begin makes the first
// state from the saga's id and the request; result makes what a completed saga
// gives to whoever asked. Both must be pure: no clock, no randomness, no I/O.
//
// The command's sender gets the result as its reply, or the failure as its
// rejection, when the command says where to reply. That makes a saga a step of
// another one; see [Child].
func On[S, Q, R any](command events.Command[Q, R], begin func(id string, request Q) S, result func(state S) R) Start[S] {
	if begin == nil || result == nil {
		return Start[S]{command: command.Describe()} // reported by Compile
	}
	return Start[S]{
		command: command.Describe(),
		begin: func(id string, data []byte) (any, error) {
			var request Q
			if err := json.Unmarshal(data, &request); err != nil {
				return nil, fmt.Errorf("decode request: %w", err)
			}
			s := begin(id, request)
			return &s, nil
		},
		result: func(state any) ([]byte, error) { return json.Marshal(result(*state.(*S))) },
	}
}

// Takeover is how a definition takes over running sagas of an older version.
// Make it with [From].
type Takeover[S any] struct {
	version int
	state   func(old []byte) ([]byte, error)
	nodes   map[string]string
}

// From takes running sagas of that version over. state makes the new state from
// the old one; nodes tells the new names of nodes that were renamed. Every node
// that a running saga has entered must exist in the new version under its name or
// its new one: [Engine.Check] refuses to start otherwise.
func From[S, Old any](version int, state func(old Old) S, nodes map[string]string) Takeover[S] {
	t := Takeover[S]{version: version, nodes: nodes}
	if state != nil {
		t.state = func(old []byte) ([]byte, error) {
			var before Old
			if err := json.Unmarshal(old, &before); err != nil {
				return nil, fmt.Errorf("decode state: %w", err)
			}
			return json.Marshal(state(before))
		}
	}
	return t
}
