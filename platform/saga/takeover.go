package saga

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// errForeign means that a saga cannot be advanced by this engine, but perhaps by
// another one.
var errForeign = errors.New("this engine cannot advance the saga")

// program returns the definition that a saga is to be advanced with. taken is the
// saga as that definition takes it over, nil when it is of its version already.
func (e *Engine) program(saga *stored) (p *Program, taken *Instance, err error) {
	if saga.unreadable != nil {
		return nil, nil, fmt.Errorf("%w: %w", errForeign, saga.unreadable)
	}
	if p, ok := e.programs[programKey{saga.Name, saga.Version}]; ok {
		if err := p.fits(&saga.Instance); err != nil {
			return p, nil, fmt.Errorf("%w: %w: a changed definition needs another version", errForeign, err)
		}
		return p, nil, nil
	}
	for _, p := range slices.Backward(e.Programs()) { // the newest that takes it over
		if p.Name != saga.Name {
			continue
		}
		if t, ok := p.takes[saga.Version]; ok {
			next, err := p.takeOver(saga.Instance, t)
			if err != nil {
				return p, nil, fmt.Errorf("%w: version %d cannot take it over: %w", errForeign, p.Version, err)
			}
			return p, &next, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: it has no definition of %s version %d", errForeign, saga.Name, saga.Version)
}

// fits tells why a saga has not the nodes of this program.
func (p *Program) fits(in *Instance) error {
	for i := range in.Steps {
		r := &in.Steps[i]
		n, _, ok := p.locate(r.Name)
		switch {
		case !ok:
			return fmt.Errorf("it has come to %q, which %s version %d does not have", r.Name, p.Name, p.Version)
		case r.Kind != n.recordKind():
			return fmt.Errorf("%q is a %s, and a %s in %s version %d", r.Name, or(r.Kind, string(kindStep)), n.kind, p.Name, p.Version)
		case n.kind == kindChoice && r.Choice >= len(n.children):
			return fmt.Errorf("%q has taken case %d, which %s version %d does not have", r.Name, r.Choice+1, p.Name, p.Version)
		}
		for _, option := range r.Turns {
			if !slices.Contains(n.options, option) {
				return fmt.Errorf("%q has run %q, which %s version %d does not have", r.Name, option, p.Name, p.Version)
			}
		}
	}
	return nil
}

// recordKind is how the kind is written in a record.
func (n *node) recordKind() string {
	if n.kind == kindStep {
		return ""
	}
	return string(n.kind)
}

// takeOver returns the saga as one of this program's version.
func (p *Program) takeOver(in Instance, t takeover) (Instance, error) {
	err := protect(func() error {
		state, err := t.state(in.State)
		in.State = state
		return sized(state, err)
	})
	if err != nil {
		return in, err
	}
	in.Version, in.Steps = p.Version, slices.Clone(in.Steps)
	for i := range in.Steps {
		r := &in.Steps[i]
		name, suffix, _ := strings.Cut(r.Name, "[")
		if renamed, ok := t.nodes[name]; ok {
			r.Origin = or(r.Origin, r.Name) // its command ids stay
			if r.Name = renamed; suffix != "" {
				r.Name += "[" + suffix
			}
		}
	}
	for _, failure := range []**Failure{&in.Failure, &in.Trouble} {
		if *failure != nil {
			name, suffix, indexed := strings.Cut((*failure).Step, "[")
			if renamed, ok := t.nodes[name]; ok {
				moved := **failure
				if moved.Step = renamed; indexed {
					moved.Step += "[" + suffix
				}
				*failure = &moved
			}
		}
	}
	return in, p.fits(&in)
}

// attributesMax and attributeBytesMax bound what a saga is found by.
const (
	attributesMax     = 8
	attributeBytesMax = 200
)

// find returns the search attributes of a saga. What its definition gets wrong is
// left out: a saga must not fail for it.
func (p *Program) find(in *Instance) map[string]string {
	var found map[string]string
	err := protect(func() error {
		state, err := p.decode(in.State)
		if err == nil {
			found = p.attributes(state)
		}
		return err
	})
	if err != nil {
		return nil
	}
	out := make(map[string]string, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if value := found[name]; len(out) < attributesMax && name != "" && len(name) <= attributeBytesMax && len(value) <= attributeBytesMax && !strings.ContainsRune(name+value, 0) {
			out[name] = strings.ToValidUTF8(value, "\uFFFD")
		}
	}
	return out
}
