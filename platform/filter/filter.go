package filter

import (
	"slices"
	"strings"

	cesql "github.com/cloudevents/sdk-go/sql/v2"

	"github.com/countermand/countermand/events"
)

// Filter is a compiled condition on events. The nil filter holds for every event. A
// filter never changes: any number of goroutines may use it.
type Filter struct {
	root node
	text string
}

// Matches reports whether the filter holds for the event. An attribute that the event
// does not have makes exact, prefix and suffix false, and so does an error make sql.
func (f *Filter) Matches(e *events.Event) bool {
	if f == nil {
		return true
	}
	in := Input{Event: e}
	return f.root.holds(&in)
}

// Holds is Matches for an event that several filters are asked about: what the sql
// dialect needs of it is made once.
func (f *Filter) Holds(in *Input) bool { return f == nil || f.root.holds(in) }

// String returns the filter as a JSON array of filter expressions. Filters with the
// same text hold for the same events.
func (f *Filter) String() string {
	if f == nil {
		return "[]"
	}
	return f.text
}

// Types returns the filter that holds for events of one of those types; nil for none.
func Types(types ...string) *Filter {
	if len(types) == 0 {
		return nil
	}
	types = slices.Compact(slices.Sorted(slices.Values(types)))
	var each []string
	for _, name := range types {
		each = append(each, expressionText("exact", object([]pair{{"type", name}})))
	}
	text := each[0]
	if len(each) > 1 {
		text = expressionText("any", array(each))
	}
	return &Filter{node{op: opTypes, types: types}, array([]string{text})}
}

// All returns the filter that holds where each of the filters does.
func All(filters ...*Filter) *Filter {
	filters = slices.DeleteFunc(slices.Clone(filters), func(f *Filter) bool { return f == nil })
	switch len(filters) {
	case 0:
		return nil
	case 1:
		return filters[0]
	}
	all := &Filter{root: node{op: opAll}}
	var each []string
	for _, f := range filters {
		all.root.nodes = append(all.root.nodes, f.root)
		each = append(each, strings.TrimSuffix(strings.TrimPrefix(f.text, "["), "]"))
	}
	all.text = array(each)
	return all
}

// node is one expression of a filter.
type node struct {
	op    op
	pairs []pair           // of exact, prefix and suffix, sorted by name
	nodes []node           // of all, any and not
	types []string         // of opTypes
	sql   cesql.Expression // of sql
}

// pair is an attribute and the value to compare it with.
type pair struct{ name, value string }

type op uint8

const (
	opAll op = iota
	opAny
	opNot
	opExact
	opPrefix
	opSuffix
	opSQL
	opTypes // any of exact types, without a walk of nodes
)

func (n *node) holds(in *Input) bool {
	switch n.op {
	case opAll:
		for i := range n.nodes {
			if !n.nodes[i].holds(in) {
				return false
			}
		}
		return true
	case opAny:
		for i := range n.nodes {
			if n.nodes[i].holds(in) {
				return true
			}
		}
		return false
	case opNot:
		return !n.nodes[0].holds(in)
	case opTypes:
		return slices.Contains(n.types, in.Event.Type)
	case opSQL:
		return in.evaluate(n.sql)
	default:
		return n.compare(in.Event)
	}
}

func (n *node) compare(e *events.Event) bool {
	for i := range n.pairs {
		p := &n.pairs[i]
		value, ok := attribute(e, p.name)
		if !ok {
			return false
		}
		switch n.op {
		case opPrefix:
			ok = strings.HasPrefix(value, p.value)
		case opSuffix:
			ok = strings.HasSuffix(value, p.value)
		default:
			ok = value == p.value
		}
		if !ok {
			return false
		}
	}
	return true
}
