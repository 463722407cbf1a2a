package saga

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// scope is where in the repetitions around it a node runs: which item of a
// for-each, which turn of a decide, which round of a step. nil is the saga itself.
type scope struct {
	up     *scope
	around *node // the node that repeats
	index  int
}

// path returns the name of the record of n there: its name, and the indexes of
// all repetitions around it.
func (s *scope) path(n *node) string {
	if s == nil {
		return n.name
	}
	return n.name + "[" + s.suffix() + "]"
}

func (s *scope) suffix() string {
	if s.up == nil {
		return strconv.Itoa(s.index)
	}
	return s.up.suffix() + "." + strconv.Itoa(s.index)
}

// indexes returns those of all repetitions around, the outermost first.
func (s *scope) indexes() []int {
	if s == nil {
		return nil
	}
	return append(s.up.indexes(), s.index)
}

// within reports whether both scopes are in the same item, turn or round of the
// first repetitions around them, that many.
func (s *scope) within(other *scope, depth int) bool {
	return slices.Equal(s.indexes()[:depth], other.indexes()[:depth])
}

// inner returns the scope of the children of n at that index.
func (s *scope) inner(n *node, index int) *scope { return &scope{up: s, around: n, index: index} }

// locate finds the node and the scope of a record by its name.
func (p *Program) locate(path string) (*node, *scope, bool) {
	name, suffix, indexed := strings.Cut(path, "[")
	n, ok := p.nodes[name]
	if !ok {
		return nil, nil, false
	}
	if !indexed {
		return n, nil, n.depth == 0
	}
	parts := strings.Split(strings.TrimSuffix(suffix, "]"), ".")
	if len(parts) != n.depth {
		return nil, nil, false
	}
	around := make([]*node, 0, n.depth)
	for up := n.up; up != nil; up = up.up {
		if up.repeats() {
			around = append(around, up)
		}
	}
	var at *scope
	for i, part := range parts {
		index, err := strconv.Atoi(part)
		if err != nil || index < 0 {
			return nil, nil, false
		}
		at = at.inner(around[len(around)-1-i], index)
	}
	return n, at, true
}

// state returns the state as a node there sees it: a pointer to the saga's, or to
// the Each of the nearest for-each. Folds write to it; see [decision.folded].
func (d *decision) state(at *scope) (any, error) {
	if at == nil {
		if d.value == nil {
			value, err := d.program.decode(d.State)
			if err != nil {
				return nil, err
			}
			d.value = value
		}
		return d.value, nil
	}
	outer, err := d.state(at.up)
	if err != nil || at.around.kind != kindForEach {
		return outer, err
	}
	record := d.record(at.up.path(at.around))
	if record == nil || at.index >= len(record.Items) {
		return nil, fmt.Errorf("for-each %s has no item %d", at.around.name, at.index)
	}
	return at.around.enter(outer, record.Items[at.index], at.index)
}

// folded takes in what a fold wrote to the state that it got from [decision.state].
func (d *decision) folded(at *scope, state any) error {
	for ; at != nil; at = at.up {
		if at.around.kind != kindForEach {
			continue
		}
		outer, err := d.state(at.up)
		if err != nil {
			return err
		}
		item, err := at.around.leave(outer, state)
		if err := sized(item, err); err != nil {
			return err
		}
		record := d.record(at.up.path(at.around))
		record.Items = append(record.Items[:0:0], record.Items...) // Decide's argument keeps its own
		record.Items[at.index] = item
		state = outer
	}
	d.value, d.dirty = state, true
	return d.store()
}

// store encodes a state that has been written to.
func (d *decision) store() error {
	if !d.dirty {
		return nil
	}
	data, err := d.program.encode(d.value)
	if err := sized(data, err); err != nil {
		return err
	}
	d.State, d.dirty = data, false
	return nil
}

// forget drops what a fold that failed has written.
func (d *decision) forget() { d.value, d.dirty = nil, false }
