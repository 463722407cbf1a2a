package saga_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// What a compensation would send, before anybody orders it. The second step has got
// no answer yet, so it may have been done.
func ExampleProgram_Preview() {
	program, err := define(alpha(), beta()).Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Now()
	in, sent, _ := program.Decide(saga.Instance{}, saga.Input{Start: &saga.StartInput{ID: events.NewID(), Request: []byte(`{}`)}}, now)
	in, _, _ = program.Decide(in, saga.Input{Reply: &saga.ReplyInput{CommandID: sent[0].ID, Data: []byte(`{"Number":7}`)}}, now)

	preview, err := program.Preview(in, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range preview.Sends {
		fmt.Println(p.Step, p.Type, p.InDoubt)
	}
	fmt.Println(preview.Ends)
	// Output:
	// beta test.beta.undo.v1 true
	// alpha test.alpha.undo.v1 false
	// compensated
}

// A definition as a picture, for a page or a console.
func ExampleGraph_SVG() {
	program, err := define(alpha(), pivot(beta())).Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	svg := program.Graph().SVG()
	fmt.Println(strings.HasPrefix(svg, "<svg "), strings.Contains(svg, "pivot: no way back"))
	// Output: true true
}
