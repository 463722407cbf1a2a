package saga

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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
	// Deadline and Retention are those of the definition, with defaults filled in.
	Deadline  time.Duration
	Retention time.Duration

	start      events.Descriptor
	begin      func(id string, request []byte) (any, error)
	result     func(state any) ([]byte, error)
	decode     func(state []byte) (any, error)
	encode     func(state any) ([]byte, error)
	attributes func(state any) map[string]string
	takes      map[int]takeover
	root       *node
	nodes      map[string]*node // the named ones
	order      []*node          // the named ones, as they are written
	locks      bool             // it has locks
	patience   time.Duration    // the shortest pause before a command is repeated
}

// takeover is a Takeover without its type parameter.
type takeover struct {
	state func(old []byte) ([]byte, error)
	nodes map[string]string
}

// Compiler is any definition, whatever its state type.
type Compiler interface{ Compile() (*Program, error) }

// compiler collects what a definition consists of and what is wrong with it.
type compiler struct {
	saga  string
	nodes map[string]*node
	order []*node
	errs  []error
}

// typed is a compiler that takes nodes of one state type only.
type typed[S any] struct{ *compiler }

func (c *compiler) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("saga %q: "+format, append([]any{c.saga}, args...)...))
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// named returns a new node of that name, which must be one and the only one.
func (c *compiler) named(k kind, name string) *node {
	if !namePattern.MatchString(name) {
		c.fail("%s %d: name %q must be lower-case words joined by dashes", k, len(c.order)+1, name)
	}
	if c.nodes[name] != nil {
		c.fail("%s %q: two nodes have this name, and command ids derive from it", k, name)
	}
	n := &node{kind: k, name: name}
	c.nodes[name] = n
	c.order = append(c.order, n)
	return n
}

// paced sets how long a node waits and how often it tries.
func (c *compiler) paced(n *node, timeout time.Duration, code events.Code, retry Retry) {
	if timeout < 0 || retry.Min < 0 || retry.Max < 0 || retry.Attempts < 0 {
		c.fail("%s %q: a duration or number is negative; leave it out for the default", n.kind, n.name)
	}
	if retry.Jitter < 0 || retry.Jitter > 1 {
		c.fail("%s %q: Retry.Jitter %g is not between 0 and 1", n.kind, n.name, retry.Jitter)
	}
	n.timeout, n.timeoutCode = or(timeout, 30*time.Second), or(code, "timeout")
	n.retry = Retry{Min: or(retry.Min, 5*time.Second), Max: or(retry.Max, time.Minute), Jitter: retry.Jitter, Attempts: retry.Attempts}
	if n.retry.Max < n.retry.Min {
		if retry.Max != 0 {
			c.fail("%s %q: Retry.Max %s is shorter than Retry.Min %s: set a longer Max", n.kind, n.name, n.retry.Max, n.retry.Min)
		}
		n.retry.Max = n.retry.Min
	}
}

// compileNode compiles a part of a flow, of which nil is none.
func compileNode[S any](c typed[S], part Node[S]) *node {
	if part == nil {
		c.fail("a node is nil: leave it out")
		return &node{kind: kindSequence}
	}
	return part.compile(c)
}

// Compile checks the definition and returns its program. The error joins every
// violation, each with how to mend it.
func (d Definition[S]) Compile() (*Program, error) {
	c := &compiler{saga: d.Name, nodes: make(map[string]*node)}
	if !namePattern.MatchString(d.Name) {
		c.fail("the name must be lower-case words joined by dashes")
	}
	if d.Version < 1 {
		c.fail("version %d: count versions from 1", d.Version)
	}
	if d.Start.begin == nil {
		c.fail("nothing starts it: set Start to saga.On(command, begin, result)")
	}
	if d.Deadline < 0 || d.Retention < 0 {
		c.fail("Deadline and Retention must not be negative")
	}
	p := &Program{
		Name: d.Name, Version: d.Version, StartType: d.Start.command.Type, Topic: d.Start.command.Topic,
		Deadline: d.Deadline, Retention: or(d.Retention, 30*24*time.Hour),
		start: d.Start.command, begin: d.Start.begin, result: d.Start.result, takes: make(map[int]takeover),
		decode: decodeAs[S], encode: encodeJSON,
	}
	if d.Attributes != nil {
		p.attributes = func(state any) map[string]string { return d.Attributes(*state.(*S)) }
	}
	for _, t := range d.Takes {
		if t.state == nil || t.version < 1 || t.version >= d.Version {
			c.fail("Takes: version %d must be an older one than %d, with a function that makes the new state: use saga.From", t.version, d.Version)
			continue
		}
		p.takes[t.version] = takeover{t.state, t.nodes}
	}
	p.root = &node{kind: kindSequence}
	if limit := d.Limit.compile(c); limit != nil {
		p.root.add(limit)
	}
	limited := len(c.order)
	if d.Flow != nil {
		p.root.add(d.Flow.compile(typed[S]{c}))
	}
	if len(p.root.children) == 1 {
		p.root = p.root.children[0]
	}
	if len(c.order) == limited {
		c.fail("it has no steps: set Flow to a saga.Sequence of them")
	} else {
		p.root.nest(nil)
		c.place(p.root, beforePivot)
		c.orders(p.root)
		if longest := p.root.longest(); d.Deadline > 0 && d.Deadline < longest {
			c.fail("the deadline %s is shorter than the timeouts of its nodes one after the other, %s: set a longer Deadline or shorter timeouts", d.Deadline, longest)
		}
	}
	p.nodes, p.order = c.nodes, c.order
	for _, n := range c.order {
		if n.retry.Min > 0 && (p.patience == 0 || n.retry.Min < p.patience) {
			p.patience = n.retry.Min
		}
	}
	p.locks = slices.ContainsFunc(c.order, func(n *node) bool { return n.kind == kindLock })
	for version, t := range p.takes {
		for _, name := range t.nodes {
			if p.nodes[name] == nil {
				c.fail("Takes: version %d renames a node to %q, which does not exist", version, name)
			}
		}
	}
	if len(c.errs) > 0 {
		slices.SortStableFunc(c.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(c.errs...)
	}
	return p, nil
}

// position of a node relative to the pivot.
type position int

const (
	beforePivot position = iota
	maybePivot           // the pivot is in some branch of an earlier choice
	afterPivot
)

// place tells each node where it stands and checks that it can be undone there,
// and returns where what follows it stands.
func (c *compiler) place(n *node, at position) position {
	n.afterPivot = at == afterPivot
	switch n.kind {
	case kindSequence:
		for _, child := range n.children {
			at = c.place(child, at)
		}
		return at
	case kindChoice:
		ends := make([]position, 0, len(n.children)+1)
		for _, child := range n.children {
			ends = append(ends, c.place(child, at))
		}
		if !n.otherwise {
			ends = append(ends, at)
		}
		return join(ends)
	case kindParallel, kindForEach, kindDecide:
		for _, child := range n.children {
			if end := c.place(child, at); end != at {
				c.fail("the pivot is inside a %s, where other work goes on beside or after it: put it in a sequence", n.kind)
			}
		}
		return at
	case kindStep, kindChild, kindLocal:
		c.checkUndo(n, at)
		end := at
		if n.pivot {
			end = afterPivot
		}
		ends := []position{end}
		for i, child := range n.children { // handlers of rejections, which come before the step has run
			if h := c.place(child, at); !n.handlers[i].retry {
				ends = append(ends, h)
			}
		}
		return join(ends)
	case kindAwait:
		ends := []position{at}
		for _, child := range n.children {
			ends = append(ends, c.place(child, at))
		}
		return join(ends)
	default:
		return at
	}
}

func join(ends []position) position {
	for _, end := range ends {
		if end != ends[0] {
			return maybePivot
		}
	}
	return ends[0]
}

func (c *compiler) checkUndo(n *node, at position) {
	if n.pivot && at != beforePivot {
		c.fail("%s %q is a pivot after another one: only one decides", n.kind, n.name)
	}
	compensable := n.undo != nil || n.localUndo != nil
	if n.mayUndo && at == afterPivot {
		n.undo, n.buildUndo, compensable = nil, nil, false
	}
	switch {
	case compensable && n.noUndo != "":
		c.fail("%s %q has both Undo and NoUndo: keep one", n.kind, n.name)
	case compensable && n.pivot:
		c.fail("%s %q is the pivot and has an Undo: what can be undone does not decide; drop one", n.kind, n.name)
	case compensable && at == afterPivot:
		c.fail("%s %q comes after the pivot and has an Undo that would never run: drop it or move the %s", n.kind, n.name, n.kind)
	case !compensable && !n.pivot && at != afterPivot && n.noUndo == "":
		c.fail("%s %q comes before the pivot and cannot be undone: set Undo, or NoUndo with the reason", n.kind, n.name)
	}
}

// orders checks every UndoAfter: it may only name steps of other branches of the
// innermost parallel that both are in, or undoing would wait for itself.
func (c *compiler) orders(n *node) {
	if n.kind == kindParallel {
		branch := make(map[string]int)
		for i, child := range n.children {
			child.walk(func(m *node) { branch[m.name] = i })
		}
		waits := make([]map[int]bool, len(n.children))
		for i, child := range n.children {
			waits[i] = make(map[int]bool)
			child.walk(func(m *node) {
				for _, name := range m.undoAfter {
					if other, ok := branch[name]; ok && other != i {
						waits[i][other] = true
						m.ordered = append(m.ordered, ordered{name, n.depth})
					}
				}
			})
		}
		for i := range waits {
			if reaches(waits, i, i, make(map[int]bool)) {
				c.fail("UndoAfter goes in a circle between the branches of a parallel: no branch could be undone first")
				break
			}
		}
		if n.inTurn && slices.ContainsFunc(waits, func(w map[int]bool) bool { return len(w) > 0 }) {
			c.fail("a parallel has UndoInTurn and UndoAfter: keep one order")
		}
	}
	for _, child := range n.children {
		c.orders(child)
	}
	for _, name := range n.undoAfter {
		if c.nodes[name] == nil {
			c.fail("step %q: UndoAfter names %q, which does not exist", n.name, name)
		} else if !slices.ContainsFunc(n.ordered, func(o ordered) bool { return o.name == name }) {
			c.fail("step %q: UndoAfter names %q, which is in no other branch of a parallel around it: a sequence is undone in reverse anyway", n.name, name)
		}
	}
}

func reaches(edges []map[int]bool, from, to int, seen map[int]bool) bool {
	for next := range edges[from] {
		if next == to {
			return true
		}
		if !seen[next] {
			seen[next] = true
			if reaches(edges, next, to, seen) {
				return true
			}
		}
	}
	return false
}

// or returns value, or fallback when value is zero.
func or[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
