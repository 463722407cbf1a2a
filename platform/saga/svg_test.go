package saga_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// atlas has every node there is.
func atlas() saga.Definition[trip] {
	d := voyage()
	legs := d.Flow.(saga.Sequence[trip])
	waits := alpha()
	waits.Name = "hotel"
	waits.OnReject = map[events.Code]saga.Handler[trip]{
		"full":   {Do: saga.Sleep[trip]{Name: "wait-for-room", For: 90 * time.Minute}, Retry: true},
		"closed": {Do: saga.Step[trip]{Name: "tent", Do: call("tent", doB), NoUndo: "a tent is light"}},
	}
	named := func(s saga.Step[trip], name string) saga.Step[trip] { s.Name = name; return s }
	d.Flow = saga.Sequence[trip]{
		legs[0], legs[1], legs[2], waits,
		saga.Choice[trip]{Name: "far", Cases: []saga.Case[trip]{{When: func(trip) bool { return true }, Then: named(beta(), "fly")}}},
		saga.Await[trip]{
			Name: "visa", Timeout: 48 * time.Hour, For: saga.Signal(verdict, func(*trip, struct{ Number int }) {}),
			OnTimeout: named(note(), "remind"),
		},
		saga.Decide[trip]{
			Name: "guide", Next: func(trip, int) string { return "" },
			Options: map[string]saga.Node[trip]{"ask": named(gamma(), "ask-guide"), "look": named(note(), "look-up")},
		},
		saga.Child[trip]{Name: "insure", Start: saga.Call(events.NewCommand[booking, ticket]("test.insurance.buy.v1"), func(trip) booking { return booking{} }, nil)},
		pivot(named(gamma(), "board")), named(delta(), "arrive"),
	}
	return d
}

func TestSVG(t *testing.T) {
	t.Parallel()
	for name, definition := range map[string]saga.Compiler{"standard": standard(), "atlas": atlas()} {
		program, err := definition.Compile()
		if err != nil {
			t.Fatal(err)
		}
		svg := program.Graph().SVG()
		golden(t, name+".svg", svg)
		wellFormed(t, svg)
		for _, part := range []string{"prefers-color-scheme:dark", "pivot: no way back", "compensated", "<title>Saga trip, version 1</title>"} {
			if !strings.Contains(svg, part) {
				t.Errorf("%s.svg does not have %q", name, part)
			}
		}
	}
}

// wellFormed checks that it is XML that refers to nothing outside.
func wellFormed(t *testing.T, svg string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range element.Attr {
			if a.Name.Local == "href" || strings.Contains(a.Value, "//") && a.Name.Local != "xmlns" || strings.HasPrefix(a.Name.Local, "on") {
				t.Errorf("<%s %s=%q>", element.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if strings.Contains(svg, "@import") || strings.Contains(svg, "<script") {
		t.Error("it loads something")
	}
}

func TestSVGEscapesWhatItShows(t *testing.T) {
	t.Parallel()
	evil := `"><script>alert(1)</script>&` + "\x00"
	g := saga.Graph{Name: evil, Start: evil, Flow: saga.GraphNode{Kind: "sequence", Nodes: []saga.GraphNode{
		{Kind: "step", Name: evil, Command: evil, Undo: evil, Pivot: true},
		{Kind: "choice", Name: evil, Labels: []string{evil}, Nodes: []saga.GraphNode{{Kind: "step", Name: evil, NoUndo: evil}}},
		{Kind: "for-each", Name: evil},
		{Kind: "never heard of", Name: evil},
	}}}
	svg := g.SVG()
	wellFormed(t, svg)
	if strings.Contains(svg, "alert(1)<") && strings.Contains(svg, "<script") {
		t.Error("it holds a script")
	}
}
