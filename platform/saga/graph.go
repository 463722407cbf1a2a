package saga

import (
	"slices"
	"time"

	"github.com/countermand/countermand/events"
)

// Graph is the shape of a definition, for people and tools that have not its code.
type Graph struct {
	Name    string       `json:"name"`
	Version int          `json:"version"`
	Start   string       `json:"start"` // command type
	Topic   events.Topic `json:"topic"`
	// Deadline and Retention in seconds; no deadline is 0.
	Deadline  float64   `json:"deadline_seconds,omitempty"`
	Retention float64   `json:"retention_seconds"`
	Flow      GraphNode `json:"flow"`
}

// GraphNode is a node of a [Graph].
type GraphNode struct {
	// Kind is sequence, parallel, step, local step, child saga, choice, for-each,
	// await, sleep or decide.
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
	// Command is what a step sends, Undo its compensation, Signal what is awaited.
	Command string `json:"command,omitempty"`
	Undo    string `json:"undo,omitempty"`
	NoUndo  string `json:"no_undo,omitempty"`
	Signal  string `json:"signal,omitempty"`
	Pivot   bool   `json:"pivot,omitempty"`
	// AfterPivot says that the node only goes forward.
	AfterPivot bool    `json:"after_pivot,omitempty"`
	Timeout    float64 `json:"timeout_seconds,omitempty"`
	// Limit is how many items a for-each has under way.
	Limit int         `json:"limit,omitempty"`
	Nodes []GraphNode `json:"nodes,omitempty"`
	// Labels tell when each of Nodes is run: the case of a choice, the option of a
	// decide, the code of a rejection, a timeout.
	Labels []string `json:"labels,omitempty"`
}

// Graph returns the shape of the program.
func (p *Program) Graph() Graph {
	return Graph{
		Name: p.Name, Version: p.Version, Start: p.StartType, Topic: p.Topic,
		Deadline: p.Deadline.Seconds(), Retention: p.Retention.Seconds(), Flow: p.root.graph(),
	}
}

func (n *node) graph() GraphNode {
	g := GraphNode{Kind: string(n.kind), Name: n.name, NoUndo: n.noUndo, Pivot: n.pivot, AfterPivot: n.afterPivot, Timeout: n.timeout.Seconds()}
	switch n.kind {
	case kindAwait:
		g.Signal = n.do.Type
	default:
		g.Command = n.do.Type
	}
	switch {
	case n.undo != nil:
		g.Undo = n.undo.Type
	case n.localUndo != nil:
		g.Undo = "local"
	}
	if n.kind == kindForEach {
		g.Limit = n.limit
	}
	for i, child := range n.children {
		g.Nodes = append(g.Nodes, child.graph())
		if label := n.label(i); label != "" {
			g.Labels = append(g.Labels, label)
		}
	}
	return g
}

// label tells when a child is run, where that is not always.
func (n *node) label(child int) string {
	switch {
	case n.kind == kindChoice && n.otherwise && child == len(n.children)-1:
		return "else"
	case n.kind == kindChoice:
		return "case " + string(rune('1'+child))
	case n.kind == kindDecide:
		return n.options[child]
	case n.kind == kindAwait:
		return "after " + n.timeout.Round(time.Second).String()
	case len(n.handlers) > 0 && n.handlers[child].retry:
		return string(n.handlers[child].code) + ", then again"
	case len(n.handlers) > 0:
		return string(n.handlers[child].code)
	}
	return ""
}

// same reports whether two definitions have the same flow: their timeouts, limits
// and reasons may differ.
func (g Graph) same(other Graph) bool { return g.Start == other.Start && g.Flow.same(&other.Flow) }

func (g *GraphNode) same(other *GraphNode) bool {
	return g.Kind == other.Kind && g.Name == other.Name && g.Command == other.Command && g.Undo == other.Undo &&
		g.Signal == other.Signal && g.Pivot == other.Pivot &&
		(g.Kind == string(kindAwait) || slices.Equal(g.Labels, other.Labels)) &&
		slices.EqualFunc(g.Nodes, other.Nodes, func(a, b GraphNode) bool { return a.same(&b) })
}
