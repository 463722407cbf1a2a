package saga

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// SVG returns the graph as a picture of its own: what is done from left to right,
// each compensation in the lane under its step, from right to left. It refers to
// nothing outside, has a text for screen readers, and is dark where the reader
// wants it so.
func (g Graph) SVG() string {
	s := sketch{lane: g.Flow.undoes()}
	flow := s.block(&g.Flow)
	const margin, pill = 24, 132
	start, end := margin, margin+pill+svgGap+flow.w+svgGap
	up, down := max(flow.up, 30), max(flow.down, 30)
	if s.lane {
		down = max(down, svgLane+svgUndo/2)
	}
	width, height, y := end+pill+margin, margin+up+down+margin, margin+up
	s.pill(start, y, pill, "start", short(g.Start, 20), g.Start)
	s.arrow("flow", start+pill, y, start+pill+svgGap, y)
	entries, exits := flow.draw(start+pill+svgGap, y)
	s.arrow("flow", start+pill+svgGap+flow.w, y, end, y)
	s.pill(end, y, pill, "done", "completed", "")
	if len(entries) > 0 {
		s.pill(start, y+svgLane, pill, "undone", "compensated", "")
		for _, from := range exits {
			s.bend("back", from, point{start + pill, y + svgLane})
		}
	}
	var b strings.Builder
	label := fmt.Sprintf("Saga %s, version %d", g.Name, g.Version)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="cm-saga" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, escape(label))
	fmt.Fprintf(&b, "<title>%s</title>\n<desc>%s</desc>\n%s", escape(label), escape(g.describe()), svgStyle)
	fmt.Fprintf(&b, `<rect class="ground" width="%d" height="%d"/>`+"\n%s</svg>\n", width, height, s.b.String())
	return b.String()
}

// Sizes in pixels. The axis of a node is the line on which arrows enter and leave
// it; svgLane is how far below it the undo lane is.
const (
	svgBox  = 176 // width of a step
	svgTall = 48
	svgUndo = 34
	svgLane = svgTall/2 + 26 + svgUndo/2
	svgGap  = 40
	svgRow  = 26 // between branches
)

type point struct{ x, y int }

// block is a part of the picture before it is known where it goes: its width, and
// how far it reaches above and below its axis. draw puts it with its axis from
// x, y to the right, and returns where the undo lane enters it from the right and
// leaves it to the left.
type block struct {
	w, up, down int
	draw        func(x, y int) (entries, exits []point)
}

type sketch struct {
	b    strings.Builder
	lane bool // something is undone, so there is an undo lane
}

func (s *sketch) block(g *GraphNode) block {
	switch g.Kind {
	case string(kindSequence):
		return s.sequence(g.Nodes)
	case string(kindParallel):
		return s.fork(g.Nodes)
	case string(kindChoice):
		return s.choice(g)
	case string(kindForEach):
		title := "for each of " + g.Name
		if g.Limit > 0 {
			title += fmt.Sprintf(", %d at a time", g.Limit)
		}
		return s.frame("each", title, s.sequence(g.Nodes))
	case string(kindDecide):
		return s.decide(g)
	}
	return s.step(g)
}

func (s *sketch) blocks(nodes []GraphNode) []block {
	all := make([]block, len(nodes))
	for i := range nodes {
		all[i] = s.block(&nodes[i])
	}
	return all
}

// sequence puts blocks side by side, and joins their undo lanes from right to left.
func (s *sketch) sequence(nodes []GraphNode) block {
	parts := s.blocks(nodes)
	all := block{w: svgGap * max(len(parts)-1, 0)}
	for _, p := range parts {
		all.w, all.up, all.down = all.w+p.w, max(all.up, p.up), max(all.down, p.down)
	}
	all.draw = func(x, y int) (entries, exits []point) {
		for i, p := range parts {
			if i > 0 {
				s.arrow("flow", x, y, x+svgGap, y)
				x += svgGap
			}
			in, out := p.draw(x, y)
			x += p.w
			if len(in) == 0 {
				continue // nothing in it is undone
			}
			for _, from := range out {
				for _, to := range entries {
					s.bend("back", from, to)
				}
			}
			if exits == nil {
				exits = out
			}
			entries = in
		}
		return entries, exits
	}
	return all
}

// rows puts blocks under each other, each after a label, between a sign on the
// left and one on the right.
func (s *sketch) rows(parts []block, labels []string, lead int, signs func(x, y, end int)) block {
	all := block{w: lead + svgMerge}
	axes := make([]int, len(parts)) // relative to the first
	for i, p := range parts {
		all.w = max(all.w, lead+p.w+svgMerge)
		if i == 0 {
			all.up = p.up
		} else {
			axes[i] = all.down + svgRow + max(p.up, 8)
		}
		all.down = axes[i] + p.down
	}
	all.up, all.down = max(all.up, 22), max(all.down, 22)
	all.draw = func(x, y int) (entries, exits []point) {
		end := x + all.w - 6
		signs(x, y, end)
		for i, p := range parts {
			at, left := y+axes[i], x+lead
			if i == 0 {
				s.arrow("flow", x+svgSign, at, left, at)
			} else {
				s.path("flow", true, "M%d %dV%dH%d", x+svgSign/2, y+svgSign/2, at, left)
			}
			if i < len(labels) && labels[i] != "" {
				s.text("label", x+svgSign+6, at-6, short(labels[i], (lead-svgSign-16)/6), labels[i])
			}
			in, out := p.draw(left, at)
			entries, exits = append(entries, in...), append(exits, out...)
			s.path("flow", false, "M%d %dH%dV%d", left+p.w, at, end, y)
		}
		return entries, exits
	}
	return all
}

const (
	svgSign  = 30 // of a fork or a choice
	svgMerge = 26
	svgLead  = 124 // from a sign to what follows a label
)

func (s *sketch) fork(nodes []GraphNode) block {
	return s.rows(s.blocks(nodes), nil, svgSign+svgGap, func(x, y, end int) {
		fmt.Fprintf(&s.b, `<g><title>at the same time</title><circle class="sign" cx="%d" cy="%d" r="%d"/>`, x+svgSign/2, y, svgSign/2)
		s.path("mark", false, "M%d %dh14m-7 -7v14", x+svgSign/2-7, y)
		s.b.WriteString("</g>\n")
		s.dot(end, y)
	})
}

func (s *sketch) choice(g *GraphNode) block {
	parts, labels := s.blocks(g.Nodes), slices.Clone(g.Labels)
	if len(labels) == 0 || labels[len(labels)-1] != "else" {
		parts, labels = append(parts, s.nothing()), append(labels, "else")
	}
	all := s.rows(parts, labels, svgSign+svgLead, s.diamond(g.Name))
	all.up = max(all.up, 36)
	return all
}

func (s *sketch) diamond(name string) func(x, y, end int) {
	return func(x, y, end int) {
		s.path("sign", false, "M%d %dl15 -15l15 15l-15 15z", x, y)
		s.text("name", x, y-22, short(name, 24), name)
		s.dot(end, y)
	}
}

// nothing is a way on which nothing is done.
func (s *sketch) nothing() block {
	return block{draw: func(int, int) (entries, exits []point) { return nil, nil }}
}

func (s *sketch) decide(g *GraphNode) block {
	inner := s.rows(s.blocks(g.Nodes), g.Labels, svgSign+svgLead, func(x, y, end int) {
		s.path("sign", false, "M%d %dl15 -15l15 15l-15 15z", x, y)
		s.dot(end, y)
		s.path("flow again", true, "M%d %dV%dH%dV%d", end, y, y-svgTall/2-14, x+svgSign/2, y-svgSign/2)
	})
	inner.up = max(inner.up, svgTall/2+14)
	return s.frame("decide", "code decides, turn by turn: "+g.Name, inner)
}

// frame draws a box with a title around a block.
func (s *sketch) frame(class, title string, inner block) block {
	const pad, head = 18, 30
	all := block{w: max(inner.w+2*pad, 8*utf8.RuneCountInString(title)), up: inner.up + head, down: inner.down + pad}
	all.draw = func(x, y int) (entries, exits []point) {
		if class == "each" { // it stands for several
			s.rect("frame behind", x+5, y-all.up+5, all.w, all.up+all.down, 10)
		}
		s.rect("frame "+class, x, y-all.up, all.w, all.up+all.down, 10)
		s.text("label", x+pad, y-all.up+18, title, "")
		left := x + (all.w-inner.w)/2
		s.arrow("flow", x, y, left, y)
		entries, exits = inner.draw(left, y)
		s.path("flow", false, "M%d %dH%d", left+inner.w, y, x+all.w)
		return entries, exits
	}
	return all
}

// step draws a node that waits for something, its compensation, and what is done
// instead when it is rejected or takes too long.
func (s *sketch) step(g *GraphNode) block {
	own := block{w: svgBox, up: svgTall / 2, down: svgTall / 2}
	if g.Pivot {
		own.w, own.up = own.w+14, own.up+20
	}
	if s.lane {
		own.down = svgLane + svgUndo/2
	}
	instead := s.blocks(g.Nodes)
	axes := make([]int, len(instead))
	all := own
	for i, p := range instead {
		all.w = max(all.w, own.w+svgLead+p.w+svgMerge)
		axes[i] = all.down + svgRow + p.up
		all.down = axes[i] + p.down
	}
	all.draw = func(x, y int) (entries, exits []point) {
		s.box(g, x, y)
		if g.Pivot {
			s.text("pivot", x, y-svgTall/2-8, "pivot: no way back", "")
			s.path("pivot", false, "M%d %dV%d", x+own.w-6, y-own.up, y+own.down)
			s.path("flow", false, "M%d %dH%d", x+svgBox, y, x+own.w)
		}
		switch {
		case g.Undo != "":
			s.arrowDown(x+svgBox/2, y+svgTall/2, y+svgLane-svgUndo/2)
			s.rect("undo", x+8, y+svgLane-svgUndo/2, svgBox-40, svgUndo, 6)
			what := g.Undo
			if what == "local" {
				what = "in the engine"
			}
			s.text("name", x+18, y+svgLane-3, "undo", "")
			s.text("small", x+18, y+svgLane+11, tail(what, 20), g.Undo)
			entries, exits = []point{{x + svgBox - 32, y + svgLane}}, []point{{x + 8, y + svgLane}}
		case g.NoUndo != "":
			s.text("small", x+8, y+svgTall/2+15, short("no undo: "+g.NoUndo, 27), "no undo: "+g.NoUndo)
		}
		if all.w > own.w {
			s.path("flow", false, "M%d %dH%d", x+own.w, y, x+all.w)
		}
		for i, p := range instead {
			at, left := y+axes[i], x+own.w+svgLead
			s.path("flow", true, "M%d %dV%dH%d", x+svgBox-16, y+svgTall/2, at, left)
			label, again := "", false
			if i < len(g.Labels) {
				label, again = strings.CutSuffix(g.Labels[i], ", then again")
			}
			s.text("label", x+svgBox-10, at-6, short(label, 20), label)
			in, out := p.draw(left, at)
			entries, exits = append(entries, in...), append(exits, out...)
			if again {
				s.path("flow again", true, "M%d %dh10V%dH%dV%d", left+p.w, at, at+p.down+8, x+svgBox-26, y+svgTall/2)
			} else {
				s.path("flow", false, "M%d %dH%dV%d", left+p.w, at, x+all.w-6, y)
			}
		}
		if len(instead) > 0 {
			s.dot(x+all.w-6, y)
		}
		return entries, exits
	}
	if len(instead) > 0 {
		all.down += 12 // the way back to the step
	}
	return all
}

// box draws the box of a node, whose outline tells its kind.
func (s *sketch) box(g *GraphNode, x, y int) {
	top, inset := y-svgTall/2, 12
	class, small, full := "step", tail(g.Command, 25), g.Command
	if g.Pivot {
		class += " decides"
	}
	s.b.WriteString("<g>")
	switch g.Kind {
	case string(kindAwait):
		small, full, inset = tail("await "+g.Signal, 23), "await "+g.Signal, 20
		s.path(class+" waits", false, "M%d %dl12 -24h%dl12 24l-12 24h%dz", x, y, svgBox-24, 24-svgBox)
	case string(kindSleep):
		small, inset = "sleep", 40
		if g.Timeout > 0 {
			small += " " + spell(g.Timeout)
		}
		full = small
		s.rect(class+" waits", x, top, svgBox, svgTall, svgTall/2)
		fmt.Fprintf(&s.b, `<circle class="mark" cx="%d" cy="%d" r="9"/>`, x+22, y)
		s.path("mark", false, "M%d %dv-6m0 6h5", x+22, y)
	case string(kindLocal):
		small, full = "in the engine", "a local step, in the engine's own transaction"
		s.rect(class, x, top, svgBox, svgTall, 6)
		s.path("mark", false, "M%d %dv%d", x+6, top, svgTall)
	case string(kindChild):
		small, full = tail("saga "+g.Command, 25), "saga "+g.Command
		s.rect(class, x, top, svgBox, svgTall, 6)
		s.rect("inner", x+4, top+4, svgBox-8, svgTall-8, 4)
	default:
		s.rect(class, x, top, svgBox, svgTall, 6)
	}
	s.text("name", x+inset, y-3, short(g.Name, 22), g.Name)
	s.text("small", x+inset, y+14, small, full)
	s.b.WriteString("</g>\n")
}

func (s *sketch) pill(x, y, w int, class, text, full string) {
	s.rect("pill "+class, x, y-15, w, 30, 15)
	s.text("small middle", x+w/2, y+4, text, full)
}

func (s *sketch) rect(class string, x, y, w, h, r int) {
	fmt.Fprintf(&s.b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="%d"/>`+"\n", class, x, y, w, h, r)
}

func (s *sketch) dot(x, y int) {
	fmt.Fprintf(&s.b, `<circle class="dot" cx="%d" cy="%d" r="4"/>`+"\n", x, y)
}

// text writes a line; full is what it stands for when it had to be shortened.
func (s *sketch) text(class string, x, y int, text, full string) {
	fmt.Fprintf(&s.b, `<text class="%s" x="%d" y="%d">%s`, class, x, y, escape(text))
	if full != "" && full != text {
		fmt.Fprintf(&s.b, "<title>%s</title>", escape(full))
	}
	s.b.WriteString("</text>\n")
}

func (s *sketch) path(class string, head bool, format string, args ...any) {
	end := ""
	if head {
		end = ` marker-end="url(#cm-head)"`
	}
	fmt.Fprintf(&s.b, `<path class="%s" d="%s"%s/>`+"\n", class, fmt.Sprintf(format, args...), end)
}

func (s *sketch) arrow(class string, x1, y1, x2, y2 int) {
	s.path(class, true, "M%d %dL%d %d", x1, y1, x2, y2)
}

func (s *sketch) arrowDown(x, y1, y2 int) { s.arrow("back", x, y1, x, y2) }

// bend joins two places of the undo lane, the later one first.
func (s *sketch) bend(class string, from, to point) {
	if from.y == to.y {
		s.arrow(class, from.x, from.y, to.x, to.y)
		return
	}
	s.path(class, true, "M%d %dH%dV%dH%d", from.x, from.y, from.x-14, to.y, to.x)
}

// walk visits the node and all that is inside.
func (g *GraphNode) walk(visit func(*GraphNode)) {
	visit(g)
	for i := range g.Nodes {
		g.Nodes[i].walk(visit)
	}
}

// undoes reports whether anything in the node is compensated.
func (g *GraphNode) undoes() bool {
	found := false
	g.walk(func(n *GraphNode) { found = found || n.Undo != "" })
	return found
}

// describe tells the graph in words.
func (g Graph) describe() string {
	var parts []string
	g.Flow.walk(func(n *GraphNode) {
		if n.Name == "" {
			return
		}
		text := n.Kind + " " + n.Name
		if n.Pivot {
			text += ", the pivot"
		}
		if n.Undo != "" {
			text += ", which can be undone"
		}
		parts = append(parts, text)
	})
	return "Starts with " + g.Start + "; " + strings.Join(parts, "; ") + "."
}

func spell(seconds float64) string {
	text := time.Duration(seconds * float64(time.Second)).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// short cuts the end off a text, tail its beginning.
func short(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:max(most-1, 0)]) + "…"
}

func tail(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return "…" + string(runes[len(runes)-most+1:])
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}

// Colours have names, so that dark is another set of them.
const svgStyle = `<style>
.cm-saga{--ground:#fff;--ink:#1b2330;--faint:#5b6675;--line:#8a94a3;--box:#f4f7fb;--edge:#3b6fb6;--undo:#fbf3e4;--undo-edge:#a86a10;--pivot:#b3261e;--good:#1c7a3d;--frame:#fafbfc;font-family:system-ui,sans-serif}
@media (prefers-color-scheme:dark){.cm-saga{--ground:#11161d;--ink:#e7ecf3;--faint:#9aa6b5;--line:#6d7886;--box:#1a2431;--edge:#6ea3ea;--undo:#2b2214;--undo-edge:#dba24a;--pivot:#ff8a80;--good:#6bd08f;--frame:#151c25}}
.cm-saga .ground{fill:var(--ground)}
.cm-saga .name{font-size:13px;font-weight:600;fill:var(--ink)}
.cm-saga .small{font-size:10.5px;fill:var(--faint)}
.cm-saga .middle{text-anchor:middle}
.cm-saga .label{font-size:11px;fill:var(--faint)}
.cm-saga .step{fill:var(--box);stroke:var(--edge);stroke-width:1.5}
.cm-saga .inner{fill:none;stroke:var(--edge)}
.cm-saga .decides{stroke:var(--pivot);stroke-width:3}
.cm-saga path.pivot{fill:none;stroke:var(--pivot);stroke-width:1.5;stroke-dasharray:3 4}
.cm-saga text.pivot{font-size:11px;font-weight:600;fill:var(--pivot)}
.cm-saga .undo{fill:var(--undo);stroke:var(--undo-edge);stroke-width:1.2}
.cm-saga .sign{fill:var(--box);stroke:var(--line);stroke-width:1.5}
.cm-saga .mark{fill:none;stroke:var(--faint);stroke-width:1.5}
.cm-saga .frame{fill:var(--frame);stroke:var(--line);stroke-dasharray:5 4}
.cm-saga .flow{fill:none;stroke:var(--line);stroke-width:1.5}
.cm-saga .again{stroke-dasharray:2 3}
.cm-saga .back{fill:none;stroke:var(--undo-edge);stroke-width:1.3;stroke-dasharray:5 3}
.cm-saga .dot{fill:var(--line)}
.cm-saga .pill{fill:var(--box);stroke:var(--line)}
.cm-saga .done{stroke:var(--good)}
.cm-saga .undone{fill:var(--undo);stroke:var(--undo-edge)}
</style>
<defs><marker id="cm-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#8a94a3"/></marker></defs>
`
