package saga

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/countermand/countermand/events"
)

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
	// UndoAfter names steps of other branches of the same [Parallel] whose undo
	// must be done before the undo of this one is sent.
	UndoAfter []string
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
	// OnReject says what to do about some rejections instead of compensating.
	OnReject map[events.Code]Handler[S]
}

// Handler handles a rejection of a step.
type Handler[S any] struct {
	// Do is run when the step is rejected: it may wait for something, or do
	// something else instead.
	Do Node[S]
	// Retry calls the step again once Do has ended, as a new command. Without it
	// the saga goes on after the step.
	Retry bool
}

// Retry is the pace at which a command without a reply is issued again: after
// Min, then after twice as long each time, at most Max. It is issued with the
// same id, so a participant that has seen it sends its reply again.
type Retry struct {
	Min time.Duration // 5 s by default
	Max time.Duration // 60 s by default
	// Jitter spreads each pause over that part of it, 0 to 1, so that sagas that
	// failed together do not come back together: 0 by default. It derives from the
	// saga's id, so a decision stays a pure function.
	Jitter float64
	// Attempts is how often the command is issued before the step counts as
	// unanswered, whatever is left of its Timeout: 0 for no such limit.
	Attempts int
}

// undoTimeout is how long a compensation may stay unanswered before the saga
// says that it is stuck. It is repeated all the same.
const undoTimeout = 5 * time.Minute

// Action is the command of a step. Make it with [Call].
type Action[S any] struct {
	command events.Descriptor
	build   func(state any) ([]byte, error)
	fold    func(state any, reply []byte) error
}

// Call sends that command. build makes the request from the state; fold takes
// the reply into the state, and may be nil when nothing of it is needed. Both
// must be pure.
func Call[S, Q, R any](command events.Command[Q, R], build func(state S) Q, fold func(state *S, reply R)) Action[S] {
	action := Action[S]{command: command.Describe()}
	if build != nil { // nil is reported by Compile
		action.build = func(state any) ([]byte, error) { return json.Marshal(build(*state.(*S))) }
	}
	if fold != nil {
		action.fold = func(state any, data []byte) error {
			var reply R
			if len(data) > 0 {
				if err := json.Unmarshal(data, &reply); err != nil {
					return fmt.Errorf("decode reply of %s: %w", command.Type(), err)
				}
			}
			fold(state.(*S), reply)
			return nil
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
	build   func(state any, request, reply []byte, inDoubt bool) ([]byte, error)
}

// Undo undoes the command done by sending the command undo. build makes its
// request from the state and from what was sent and received; it must be pure.
func Undo[S, Q, R, U, A any](done events.Command[Q, R], undo events.Command[U, A], build func(state S, sent Sent[Q, R]) U) Compensation[S] {
	compensation := Compensation[S]{command: undo.Describe(), undoes: done.Describe()}
	if build == nil {
		return compensation // reported by Compile
	}
	compensation.build = func(state any, request, reply []byte, inDoubt bool) ([]byte, error) {
		sent := Sent[Q, R]{InDoubt: inDoubt}
		if err := json.Unmarshal(request, &sent.Request); err != nil {
			return nil, fmt.Errorf("decode request of %s: %w", done.Type(), err)
		}
		if !inDoubt && len(reply) > 0 && reflect.TypeFor[R]() != reflect.TypeFor[events.None]() {
			if err := json.Unmarshal(reply, &sent.Reply); err != nil {
				return nil, fmt.Errorf("decode reply of %s: %w", done.Type(), err)
			}
		}
		return json.Marshal(build(*state.(*S), sent))
	}
	return compensation
}

func (s Step[S]) compile(c typed[S]) *node {
	n := c.named(kindStep, s.Name)
	n.do, n.build, n.fold = s.Do.command, s.Do.build, s.Do.fold
	n.noUndo, n.undoAfter, n.pivot = s.NoUndo, s.UndoAfter, s.Pivot
	c.paced(n, s.Timeout, s.TimeoutCode, s.Retry)
	if s.Do.build == nil {
		c.fail("step %q does nothing: set Do to saga.Call(command, build, fold)", s.Name)
	}
	if s.Undo.build != nil {
		undo := s.Undo.command
		n.undo, n.buildUndo = &undo, s.Undo.build
		if s.Undo.undoes.Type != s.Do.command.Type {
			c.fail("step %q calls %s, but its Undo undoes %s", s.Name, s.Do.command.Type, s.Undo.undoes.Type)
		}
	}
	for _, code := range sortedKeys(s.OnReject) {
		h := s.OnReject[code]
		if h.Do == nil && !h.Retry {
			c.fail("step %q handles the rejection %q by nothing: set Do, or Retry, or leave it out to compensate", s.Name, code)
			continue
		}
		if h.Do == nil {
			c.fail("step %q calls again at once when rejected with %q, and would get the same answer: set Do to a node that waits for something", s.Name, code)
			continue
		}
		n.handlers = append(n.handlers, handler{code: code, retry: h.Retry})
		n.add(compileNode(c, h.Do))
	}
	return n
}

// Child runs another saga as a step: it sends the command that starts it, and the
// result of that saga is the reply, its failure the rejection. Undoing the step
// compensates the whole child; a child that has passed its pivot cannot be undone,
// so before the pivot of this saga the child must have none.
type Child[S any] struct {
	// Name as of [Step].
	Name string
	// Start is the command that starts the child; make it with [Call].
	Start Action[S]
	// NoUndo tells why the child needs no compensation. Without it, and before the
	// pivot, the child is compensated.
	NoUndo string
	// Pivot as of [Step].
	Pivot bool
	// Timeout as of [Step]: 10 min by default.
	Timeout     time.Duration
	TimeoutCode events.Code
	Retry       Retry
	OnReject    map[events.Code]Handler[S]
}

func (s Child[S]) compile(c typed[S]) *node {
	n := Step[S]{
		Name: s.Name, Do: s.Start, NoUndo: s.NoUndo, Pivot: s.Pivot, TimeoutCode: s.TimeoutCode, OnReject: s.OnReject,
		Timeout: or(s.Timeout, 10*time.Minute), Retry: Retry{Min: or(s.Retry.Min, 30*time.Second), Max: or(s.Retry.Max, 5*time.Minute), Jitter: s.Retry.Jitter, Attempts: s.Retry.Attempts},
	}.compile(c)
	n.kind = kindChild
	if s.NoUndo == "" && !s.Pivot {
		n.mayUndo = true // dropped after the pivot, where nothing is undone
		undo := s.Start.command
		undo.Type = events.CompensationType(undo.Type)
		n.undo = &undo
		n.buildUndo = func(any, []byte, []byte, bool) ([]byte, error) { return []byte("{}"), nil }
	}
	return n
}
