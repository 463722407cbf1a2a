package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

// tree shows a saga with its steps. graph tells what is inside of what; without it
// the steps are listed.
func tree(in admin.Saga, graph *saga.Graph) string {
	var b strings.Builder
	status := string(in.Status)
	if in.Paused {
		status += ", paused"
	}
	fmt.Fprintf(&b, "%s  %s@%d  %s  %s\n", in.ID, in.Name, in.Version, status, why(&in.Instance))
	g := grove{records: make(map[string]*saga.StepRecord), used: make(map[string]bool)}
	for i := range in.Steps {
		g.records[in.Steps[i].Name] = &in.Steps[i]
	}
	var twigs []twig
	if graph != nil {
		twigs = g.grow(&graph.Flow, nil)
	}
	for i := range in.Steps { // of a definition that is not known
		if !g.used[in.Steps[i].Name] {
			twigs = append(twigs, twig{text: line(&in.Steps[i], in.Steps[i].Name)})
		}
	}
	draw(&b, twigs, "")
	return b.String()
}

// twig is a line of the tree, and what is under it.
type twig struct {
	text string
	kids []twig
	done bool
}

// grove makes twigs of the nodes of a definition and the records of a saga.
type grove struct {
	records map[string]*saga.StepRecord
	used    map[string]bool
}

// itemsShown bounds how many items of a for-each are shown when most of them are
// over or to come.
const itemsShown = 8

func (g *grove) grow(n *saga.GraphNode, at []int) []twig {
	switch n.Kind {
	case "sequence":
		var all []twig
		for i := range n.Nodes {
			all = append(all, g.grow(&n.Nodes[i], at)...)
		}
		return all
	case "parallel":
		t := twig{text: "at the same time", done: true}
		for i := range n.Nodes {
			branch := g.grow(&n.Nodes[i], at)
			if len(branch) > 1 {
				branch = []twig{{text: fmt.Sprintf("branch %d", i+1), kids: branch, done: allDone(branch)}}
			}
			t.kids = append(t.kids, branch...)
		}
		t.done = allDone(t.kids)
		return []twig{t}
	}
	path := pathOf(n.Name, at)
	record := g.records[path]
	if record == nil {
		if len(at) > 0 { // inside of something that repeats, and not come to yet
			return []twig{{text: "· " + path + "  pending"}}
		}
		record = &saga.StepRecord{Name: n.Name, Status: saga.StepPending}
	}
	g.used[path] = true
	t := twig{text: line(record, path), done: record.Status == saga.StepDone || record.Status == saga.StepCompensated}
	switch n.Kind {
	case "choice":
		if record.Status == saga.StepPending {
			break
		}
		if record.Choice < 0 || record.Choice >= len(n.Nodes) {
			t.text += ": nothing to do"
			break
		}
		t.text += ": " + label(n, record.Choice)
		t.kids = g.grow(&n.Nodes[record.Choice], at)
		t.done = allDone(t.kids)
	case "for-each":
		g.items(n, at, record, &t)
	case "decide":
		for turn, option := range record.Turns {
			for i := range n.Nodes {
				if label(n, i) == option {
					kids := g.grow(&n.Nodes[i], inside(at, turn))
					t.kids = append(t.kids, twig{text: fmt.Sprintf("turn %d: %s", turn+1, option), kids: kids, done: allDone(kids)})
				}
			}
		}
	default:
		g.instead(n, at, record, &t)
	}
	return []twig{t}
}

// items adds those of a for-each, and counts them.
func (g *grove) items(n *saga.GraphNode, at []int, record *saga.StepRecord, t *twig) {
	if record.Status == saga.StepPending || len(n.Nodes) == 0 {
		return
	}
	over, waiting := 0, 0
	for i := range record.Items {
		at := inside(at, i)
		begun := g.begun(&n.Nodes[0], at)
		kids := g.grow(&n.Nodes[0], at)
		done := begun && allDone(kids)
		switch {
		case done:
			over++
		case !begun:
			waiting++
		}
		if len(record.Items) > itemsShown && (done || !begun) {
			continue
		}
		if len(kids) == 1 {
			t.kids = append(t.kids, kids[0])
		} else {
			t.kids = append(t.kids, twig{text: fmt.Sprintf("item %d", i), kids: kids, done: done})
		}
	}
	t.text += fmt.Sprintf("  %d of %d items", over, len(record.Items))
	if len(record.Items) > itemsShown && over+waiting > 0 {
		t.kids = append(t.kids, twig{text: fmt.Sprintf("… %d over, %d to come", over, waiting)})
	}
}

// begun reports whether the saga has come to anything in a node there.
func (g *grove) begun(n *saga.GraphNode, at []int) bool {
	if n.Name != "" && g.records[pathOf(n.Name, at)] != nil {
		return true
	}
	for i := range n.Nodes {
		if g.begun(&n.Nodes[i], at) {
			return true
		}
	}
	return false
}

// instead adds what is done when a step is rejected, or takes too long.
func (g *grove) instead(n *saga.GraphNode, at []int, record *saga.StepRecord, t *twig) {
	for i := range n.Nodes {
		if n.Kind == "await" {
			if g.begun(&n.Nodes[i], at) {
				t.kids = append(t.kids, g.grow(&n.Nodes[i], at)...)
			}
			continue
		}
		for round := 0; round <= record.Round; round++ {
			if there := inside(at, round); g.begun(&n.Nodes[i], there) {
				kids := g.grow(&n.Nodes[i], there)
				t.kids = append(t.kids, twig{text: "after " + label(n, i), kids: kids, done: allDone(kids)})
			}
		}
	}
}

func label(n *saga.GraphNode, child int) string {
	if child < len(n.Labels) {
		return n.Labels[child]
	}
	return ""
}

func inside(at []int, index int) []int { return append(append([]int(nil), at...), index) }

func pathOf(name string, at []int) string {
	if len(at) == 0 {
		return name
	}
	parts := make([]string, len(at))
	for i, index := range at {
		parts[i] = strconv.Itoa(index)
	}
	return name + "[" + strings.Join(parts, ".") + "]"
}

func allDone(twigs []twig) bool {
	for i := range twigs {
		if !twigs[i].done {
			return false
		}
	}
	return true
}

func draw(b *strings.Builder, twigs []twig, indent string) {
	for i := range twigs {
		branch, below := "├─ ", "│  "
		if i == len(twigs)-1 {
			branch, below = "└─ ", "   "
		}
		b.WriteString(indent + branch + twigs[i].text + "\n")
		draw(b, twigs[i].kids, indent+below)
	}
}

// line shows one step.
func line(step *saga.StepRecord, name string) string {
	text := mark(step.Status) + " " + name + "  " + string(step.Status)
	if step.Code != "" && step.Status != saga.StepRejected {
		text += "  after " + string(step.Code)
	}
	if step.Do.Attempts > 1 {
		text += fmt.Sprintf("  %d attempts", step.Do.Attempts)
	}
	if step.Undo.Attempts > 1 {
		text += fmt.Sprintf("  %d undo attempts", step.Undo.Attempts)
	}
	return text
}

func mark(status saga.StepStatus) string {
	switch status {
	case saga.StepDone:
		return "✓"
	case saga.StepRejected, saga.StepTimedOut, saga.StepCancelled:
		return "✗"
	case saga.StepRunning:
		return "▶"
	case saga.StepCompensating, saga.StepCompensated:
		return "↩"
	default:
		return "·"
	}
}

func why(in *saga.Instance) string {
	f := in.Trouble
	if f == nil {
		f = in.Failure
	}
	if f == nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%s: %s, %s", f.Step, f.Code, f.Message), ": "), ", ")
}
