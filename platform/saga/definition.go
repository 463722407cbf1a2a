package saga

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/countermand/countermand/events"
)

// Definition describes a saga over one state type S. S is encoded as JSON and
// holds what later steps need of earlier replies; it is written by folds only.
// A definition is a value: build it as a literal and do not change it.
type Definition[S any] struct {
	// Name is lower-case with dashes, such as "checkout".
	Name string
	// Version counts from 1. Running sagas keep the version they began with.
	Version int
	// Start says which command begins the saga; make it with [On].
	Start Start[S]
	// Flow is what the saga does.
	Flow Node[S]
}

// Node is a part of a flow: a [Step] or a [Sequence].
type Node[S any] interface{ steps() []Step[S] }

// Sequence runs its nodes one after the other.
type Sequence[S any] []Node[S]

func (s Sequence[S]) steps() []Step[S] {
	var all []Step[S]
	for _, node := range s {
		if node != nil {
			all = append(all, node.steps()...)
		}
	}
	return all
}

// Step calls a participant and waits for its reply. Name and Do are required,
// and before the pivot either Undo or NoUndo.
type Step[S any] struct {
	// Name is lower-case with dashes and unique within the definition. Command
	// ids derive from it, so renaming a step needs a new version.
	Name string
	// Do is the command of the step; make it with [Call].
	Do Action[S]
	// Undo is its compensation; make it with [Undo].
	Undo Compensation[S]
	// NoUndo tells why a step before the pivot needs no compensation.
	NoUndo string
	// Pivot marks the step that decides: before it everything can be undone,
	// after it the saga only goes forward. A rejected pivot is undone like any
	// other step; a pivot in doubt is repeated.
	Pivot bool
	// Timeout is how long to wait for the reply over all attempts: 30 s by
	// default. Before the pivot the step is then in doubt and the saga
	// compensates; at the pivot and after it the saga becomes stuck, and goes on
	// trying.
	Timeout time.Duration
	// TimeoutCode is the code of a saga that compensates because of this step's
	// timeout: "timeout" by default.
	TimeoutCode events.Code
	// Retry says when the command is issued again for want of a reply.
	Retry Retry
}

func (s Step[S]) steps() []Step[S] { return []Step[S]{s} }

// Retry is the pace at which a command without a reply is issued again: after
// Min, then after twice as long each time, at most Max. It is issued with the
// same id, so a participant that has seen it sends its reply again.
type Retry struct {
	Min time.Duration // 5 s by default
	Max time.Duration // 60 s by default
}

// undoTimeout is how long a compensation may stay unanswered before the saga
// says that it is stuck. It is repeated all the same.
const undoTimeout = 5 * time.Minute

// Start is how a saga begins. Make it with [On].
type Start[S any] struct {
	command events.Descriptor
	begin   func(id string, request []byte) ([]byte, error)
	result  func(state []byte) ([]byte, error)
}

// On begins a saga with each command of that contract. begin makes the first
// state from the saga's id and the request; result makes what a completed saga
// gives to whoever asked. Both must be pure: no clock, no randomness, no I/O.
func On[S, Q, R any](command events.Command[Q, R], begin func(id string, request Q) S, result func(state S) R) Start[S] {
	if begin == nil || result == nil {
		return Start[S]{command: command.Describe()} // reported by Compile
	}
	return Start[S]{
		command: command.Describe(),
		begin: func(id string, data []byte) ([]byte, error) {
			var request Q
			if err := json.Unmarshal(data, &request); err != nil {
				return nil, fmt.Errorf("decode request: %w", err)
			}
			return json.Marshal(begin(id, request))
		},
		result: func(state []byte) ([]byte, error) {
			var s S
			if err := json.Unmarshal(state, &s); err != nil {
				return nil, fmt.Errorf("decode state: %w", err)
			}
			return json.Marshal(result(s))
		},
	}
}

// Action is the command of a step. Make it with [Call].
type Action[S any] struct {
	command events.Descriptor
	build   func(state []byte) ([]byte, error)
	fold    func(state, reply []byte) ([]byte, error)
}

// Call sends that command. build makes the request from the state; fold takes
// the reply into the state, and may be nil when nothing of it is needed. Both
// must be pure.
func Call[S, Q, R any](command events.Command[Q, R], build func(state S) Q, fold func(state *S, reply R)) Action[S] {
	if build == nil {
		return Action[S]{command: command.Describe()} // reported by Compile
	}
	action := Action[S]{
		command: command.Describe(),
		build: func(state []byte) ([]byte, error) {
			var s S
			if err := json.Unmarshal(state, &s); err != nil {
				return nil, fmt.Errorf("decode state: %w", err)
			}
			return json.Marshal(build(s))
		},
	}
	if fold != nil {
		action.fold = func(state, data []byte) ([]byte, error) {
			var (
				s     S
				reply R
			)
			if err := json.Unmarshal(state, &s); err != nil {
				return nil, fmt.Errorf("decode state: %w", err)
			}
			if len(data) > 0 {
				if err := json.Unmarshal(data, &reply); err != nil {
					return nil, fmt.Errorf("decode reply of %s: %w", command.Type(), err)
				}
			}
			fold(&s, reply)
			return json.Marshal(s)
		}
	}
	return action
}

// Sent is what a compensation knows of the command it undoes: the request that
// was really sent, and the reply, unless none has come.
type Sent[Q, R any] struct {
	Request Q
	// Reply is the zero value when InDoubt.
	Reply R
	// InDoubt says that no reply came: the command may have run or may still run.
	InDoubt bool
}

// Compensation is how a step is undone. Make it with [Undo].
type Compensation[S any] struct {
	command events.Descriptor
	undoes  events.Descriptor
	build   func(state, request, reply []byte, inDoubt bool) ([]byte, error)
}

// Undo undoes the command done by sending the command undo. build makes its
// request from the state and from what was sent and received; it must be pure.
func Undo[S, Q, R, U, A any](done events.Command[Q, R], undo events.Command[U, A], build func(state S, sent Sent[Q, R]) U) Compensation[S] {
	if build == nil {
		return Compensation[S]{command: undo.Describe(), undoes: done.Describe()} // reported by Compile
	}
	return Compensation[S]{
		command: undo.Describe(), undoes: done.Describe(),
		build: func(state, request, reply []byte, inDoubt bool) ([]byte, error) {
			sent := Sent[Q, R]{InDoubt: inDoubt}
			var s S
			if err := json.Unmarshal(state, &s); err != nil {
				return nil, fmt.Errorf("decode state: %w", err)
			}
			if err := json.Unmarshal(request, &sent.Request); err != nil {
				return nil, fmt.Errorf("decode request of %s: %w", done.Type(), err)
			}
			if !inDoubt && len(reply) > 0 && reflect.TypeFor[R]() != reflect.TypeFor[events.None]() {
				if err := json.Unmarshal(reply, &sent.Reply); err != nil {
					return nil, fmt.Errorf("decode reply of %s: %w", done.Type(), err)
				}
			}
			return json.Marshal(build(s, sent))
		},
	}
}
