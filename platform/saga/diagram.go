package saga

import (
	"fmt"
	"strings"
)

// Mermaid returns the program as a Mermaid flowchart: what is done from left to
// right, each compensation under its step, and the pivot in bold.
func (p *Program) Mermaid() string { return p.Graph().Mermaid() }

// Mermaid returns the graph as a Mermaid flowchart.
func (g Graph) Mermaid() string {
	m := mermaid{ids: make(map[string]string)}
	fmt.Fprintf(&m.b, "flowchart LR\n  start([%s])\n", g.Start)
	ends := m.node(&g.Flow, []edge{{from: "start"}})
	m.b.WriteString("  completed([completed])\n")
	m.join(ends, "completed")
	if undone := m.undo(&g.Flow, nil); len(undone) > 0 {
		m.b.WriteString("  compensated([compensated])\n")
		m.join(undone, "compensated")
	}
	return m.b.String()
}

// edge is an arrow that has no head yet.
type edge struct{ from, label string }

type mermaid struct {
	b     strings.Builder
	ids   map[string]string // of the nodes by name
	count int
}

func (m *mermaid) id(prefix string) string {
	m.count++
	return fmt.Sprintf("%s%d", prefix, m.count-1)
}

func (m *mermaid) join(edges []edge, to string) {
	for _, e := range edges {
		arrow := "-->"
		if strings.HasPrefix(e.from, "u") {
			arrow = "-.->"
		}
		if e.label != "" {
			arrow += "|" + e.label + "|"
		}
		fmt.Fprintf(&m.b, "  %s %s %s\n", e.from, arrow, to)
	}
}

// node draws a node and what is inside, and returns the arrows that leave it.
func (m *mermaid) node(g *GraphNode, in []edge) (out []edge) {
	switch g.Kind {
	case string(kindSequence):
		for i := range g.Nodes {
			in = m.node(&g.Nodes[i], in)
		}
		return in
	case string(kindParallel):
		fork, end := m.id("f"), m.id("f")
		fmt.Fprintf(&m.b, "  %s((+))\n", fork)
		m.join(in, fork)
		for i := range g.Nodes {
			out = append(out, m.node(&g.Nodes[i], []edge{{from: fork}})...)
		}
		fmt.Fprintf(&m.b, "  %s((+))\n", end)
		m.join(out, end)
		return []edge{{from: end}}
	}
	id := m.id("s")
	m.ids[g.Name] = id
	fmt.Fprintf(&m.b, "  %s%s\n", id, shape(g))
	m.join(in, id)
	self := edge{from: id}
	label := func(i int) string {
		if i < len(g.Labels) {
			return g.Labels[i]
		}
		return ""
	}
	switch g.Kind {
	case string(kindChoice):
		for i := range g.Nodes {
			out = append(out, m.node(&g.Nodes[i], []edge{{id, label(i)}})...)
		}
		if len(g.Labels) == 0 || g.Labels[len(g.Labels)-1] != "else" {
			out = append(out, edge{id, "else"})
		}
		return out
	case string(kindForEach), string(kindDecide):
		for i := range g.Nodes {
			m.join(m.node(&g.Nodes[i], []edge{{id, or(label(i), "each item")}}), id)
		}
		return []edge{{id, "then"}}
	}
	out = []edge{self}
	for i := range g.Nodes { // handlers of rejections, or what follows a timeout
		ends := m.node(&g.Nodes[i], []edge{{id, label(i)}})
		if strings.HasSuffix(label(i), "then again") {
			m.join(ends, id)
		} else {
			out = append(out, ends...)
		}
	}
	return out
}

func shape(g *GraphNode) string {
	small := g.Command
	switch g.Kind {
	case string(kindAwait):
		small = "await " + g.Signal
	case string(kindSleep), string(kindLocal), string(kindForEach), string(kindDecide):
		small = g.Kind
	case string(kindChoice):
		return fmt.Sprintf("{%q}", g.Name)
	case string(kindChild):
		small = "saga " + g.Command
	}
	if g.Pivot {
		return fmt.Sprintf("[[\"<b>%s</b><br/><small>%s, pivot</small>\"]]", g.Name, small)
	}
	return fmt.Sprintf("[\"%s<br/><small>%s</small>\"]", g.Name, small)
}

// undo draws the compensations in the order in which they run, which is the
// reverse, and returns the arrows that leave the last of them.
func (m *mermaid) undo(g *GraphNode, in []edge) (out []edge) {
	own := func() {
		if g.Undo == "" {
			return
		}
		id := "u" + m.ids[g.Name][1:]
		fmt.Fprintf(&m.b, "  %s[\"undo %s<br/><small>%s</small>\"]\n  %s -. undo .-> %s\n", id, g.Name, g.Undo, m.ids[g.Name], id)
		m.join(in, id)
		in = []edge{{from: id}}
	}
	switch g.Kind {
	case string(kindParallel), string(kindChoice):
		for i := range g.Nodes {
			out = append(out, m.undo(&g.Nodes[i], in)...)
		}
		if len(out) == 0 {
			return in
		}
		return unique(out)
	}
	own()
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		in = m.undo(&g.Nodes[i], in)
	}
	return in
}

func unique(edges []edge) (out []edge) {
	seen := make(map[edge]bool)
	for _, e := range edges {
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}
