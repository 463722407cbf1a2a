package saga

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/countermand/countermand/events"
)

// Program is a definition that has been checked. It is immutable and safe for
// concurrent use.
type Program struct {
	Name    string
	Version int
	// StartType is the command type that begins the saga, Topic where it arrives.
	StartType string
	Topic     events.Topic

	begin  func(id string, request []byte) ([]byte, error)
	result func(state []byte) ([]byte, error)
	steps  []step
}

// step is a Step without its type parameter and with every default filled in.
type step struct {
	name        string
	do          events.Descriptor
	build       func(state []byte) ([]byte, error)
	fold        func(state, reply []byte) ([]byte, error) // nil: the reply is not needed
	undo        *events.Descriptor                        // nil: nothing to undo
	buildUndo   func(state, request, reply []byte, inDoubt bool) ([]byte, error)
	noUndo      string
	pivot       bool
	afterPivot  bool
	timeout     time.Duration
	timeoutCode events.Code
	retry       Retry
}

// Compiler is any definition, whatever its state type.
type Compiler interface{ Compile() (*Program, error) }

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// Compile checks the definition and returns its program. The error joins every
// violation, each with how to mend it.
func (d Definition[S]) Compile() (*Program, error) {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("saga %q: "+format, append([]any{d.Name}, args...)...))
	}
	if !namePattern.MatchString(d.Name) {
		fail("the name must be lower-case words joined by dashes")
	}
	if d.Version < 1 {
		fail("version %d: count versions from 1", d.Version)
	}
	if d.Start.begin == nil {
		fail("nothing starts it: set Start to saga.On(command, begin, result)")
	}
	p := &Program{
		Name: d.Name, Version: d.Version, StartType: d.Start.command.Type, Topic: d.Start.command.Topic,
		begin: d.Start.begin, result: d.Start.result,
	}
	var flow []Step[S]
	if d.Flow != nil {
		flow = d.Flow.steps()
	}
	if len(flow) == 0 {
		fail("it has no steps: set Flow to a saga.Sequence of them")
	}
	pivot := -1
	for i, s := range flow {
		if s.Pivot && pivot >= 0 {
			fail("steps %q and %q are both pivots: only one step decides", flow[pivot].Name, s.Name)
		} else if s.Pivot {
			pivot = i
		}
	}
	seen := make(map[string]bool)
	for i, s := range flow {
		if !namePattern.MatchString(s.Name) {
			fail("step %d: name %q must be lower-case words joined by dashes", i+1, s.Name)
		}
		if seen[s.Name] {
			fail("step %q: two steps have this name, and command ids derive from it", s.Name)
		}
		seen[s.Name] = true
		if s.Do.build == nil {
			fail("step %q does nothing: set Do to saga.Call(command, build, fold)", s.Name)
		}
		compensable := s.Undo.build != nil
		retriable := pivot >= 0 && i > pivot
		switch {
		case compensable && s.NoUndo != "":
			fail("step %q has both Undo and NoUndo: keep one", s.Name)
		case compensable && s.Pivot:
			fail("step %q is the pivot and has an Undo: what can be undone does not decide; drop one", s.Name)
		case compensable && retriable:
			fail("step %q comes after the pivot %q and has an Undo that would never run: drop it or move the step", s.Name, flow[pivot].Name)
		case !compensable && !s.Pivot && !retriable && s.NoUndo == "":
			fail("step %q comes before the pivot and cannot be undone: set Undo, or NoUndo with the reason", s.Name)
		}
		if compensable && s.Undo.undoes.Type != s.Do.command.Type {
			fail("step %q calls %s, but its Undo undoes %s", s.Name, s.Do.command.Type, s.Undo.undoes.Type)
		}
		if s.Timeout < 0 || s.Retry.Min < 0 || s.Retry.Max < 0 {
			fail("step %q: a duration is negative; leave it out for the default", s.Name)
		}
		compiled := step{
			name: s.Name, do: s.Do.command, build: s.Do.build, fold: s.Do.fold, noUndo: s.NoUndo,
			pivot: s.Pivot, afterPivot: retriable,
			timeout: or(s.Timeout, 30*time.Second), timeoutCode: or(s.TimeoutCode, "timeout"),
			retry: Retry{Min: or(s.Retry.Min, 5*time.Second), Max: or(s.Retry.Max, time.Minute)},
		}
		if compiled.retry.Max < compiled.retry.Min {
			fail("step %q: Retry.Max %s is shorter than Retry.Min %s: set a longer Max", s.Name, compiled.retry.Max, compiled.retry.Min)
		}
		if compensable {
			undo := s.Undo.command
			compiled.undo, compiled.buildUndo = &undo, s.Undo.build
		}
		p.steps = append(p.steps, compiled)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// or returns value, or fallback when value is zero.
func or[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// fits reports whether a saga has the steps of this program. One that has not
// begun fits.
func (p *Program) fits(in *Instance) bool {
	same := func(record StepRecord, s step) bool { return record.Name == s.name }
	return in.Status == "" || slices.EqualFunc(in.Steps, p.steps, same)
}
