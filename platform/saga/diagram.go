package saga

import (
	"fmt"
	"strings"
)

// Mermaid returns the program as a Mermaid flowchart: the steps from left to
// right, each compensation under its step, and the pivot in bold.
func (p *Program) Mermaid() string {
	var b strings.Builder
	fmt.Fprintf(&b, "flowchart LR\n  start([%s])\n", p.StartType)
	previous := "start"
	for i, s := range p.steps {
		shape := fmt.Sprintf("[\"%s<br/><small>%s</small>\"]", s.name, s.do.Type)
		if s.pivot {
			shape = fmt.Sprintf("[[\"<b>%s</b><br/><small>%s, pivot</small>\"]]", s.name, s.do.Type)
		}
		fmt.Fprintf(&b, "  s%d%s\n  %s --> s%d\n", i, shape, previous, i)
		previous = fmt.Sprintf("s%d", i)
	}
	fmt.Fprintf(&b, "  %s --> completed([completed])\n", previous)
	under := "compensated([compensated])"
	for i, s := range p.steps {
		if s.undo == nil {
			continue
		}
		fmt.Fprintf(&b, "  u%d[\"undo %s<br/><small>%s</small>\"]\n  s%d -. undo .-> u%d\n  u%d -.-> %s\n", i, s.name, s.undo.Type, i, i, i, under)
		under = fmt.Sprintf("u%d", i)
	}
	return b.String()
}
