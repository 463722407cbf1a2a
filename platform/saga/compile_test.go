package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

func TestCompileReportsEachViolationAndHowToMendIt(t *testing.T) {
	step := func(change func(*saga.Step[trip])) saga.Definition[trip] {
		s := beta()
		change(&s)
		return define(alpha(), s, pivot(gamma()), delta())
	}
	whole := func(change func(*saga.Definition[trip])) saga.Definition[trip] {
		d := standard()
		change(&d)
		return d
	}
	undoable := delta()
	undoable.Undo = undo("delta", doD, undoC)
	pivotWithUndo := gamma()
	pivotWithUndo.Pivot = true
	build := func(s trip) booking { return booking{} }
	for name, test := range map[string]struct {
		definition saga.Definition[trip]
		want       string
	}{
		"name":                  {whole(func(d *saga.Definition[trip]) { d.Name = "My Trip" }), `"My Trip": the name must be lower-case words joined by dashes`},
		"version":               {whole(func(d *saga.Definition[trip]) { d.Version = 0 }), "count versions from 1"},
		"no start":              {whole(func(d *saga.Definition[trip]) { d.Start = saga.Start[trip]{} }), "set Start to saga.On("},
		"start without begin":   {whole(func(d *saga.Definition[trip]) { d.Start = saga.On(begin, nil, trip.result) }), "set Start to saga.On("},
		"start without result":  {whole(func(d *saga.Definition[trip]) { d.Start = saga.On(begin, newTrip, nil) }), "set Start to saga.On("},
		"no flow":               {whole(func(d *saga.Definition[trip]) { d.Flow = nil }), "set Flow to a saga.Sequence"},
		"empty flow":            {whole(func(d *saga.Definition[trip]) { d.Flow = saga.Sequence[trip]{nil} }), "set Flow to a saga.Sequence"},
		"two pivots":            {define(alpha(), pivot(beta()), pivot(gamma())), `"gamma" is a pivot after another one: only one decides`},
		"step name":             {step(func(s *saga.Step[trip]) { s.Name = "Beta_2" }), `step 2: name "Beta_2" must be lower-case`},
		"name twice":            {step(func(s *saga.Step[trip]) { s.Name = "alpha" }), `"alpha": two nodes have this name`},
		"no command":            {step(func(s *saga.Step[trip]) { s.Do = saga.Action[trip]{} }), "set Do to saga.Call("},
		"command without build": {step(func(s *saga.Step[trip]) { s.Do = saga.Call[trip](doB, nil, nil) }), "set Do to saga.Call("},
		"no undo":               {step(func(s *saga.Step[trip]) { s.Undo = saga.Compensation[trip]{} }), "set Undo, or NoUndo with the reason"},
		"undo without build":    {step(func(s *saga.Step[trip]) { s.Undo = saga.Undo[trip](doB, undoB, nil) }), "set Undo, or NoUndo with the reason"},
		"undo and no undo":      {step(func(s *saga.Step[trip]) { s.NoUndo = "why" }), "has both Undo and NoUndo: keep one"},
		"undo of another":       {step(func(s *saga.Step[trip]) { s.Undo = undo("beta", doA, undoA) }), "calls test.beta.do.v1, but its Undo undoes test.alpha.do.v1"},
		"undo at the pivot":     {define(alpha(), pivotWithUndo), "is the pivot and has an Undo"},
		"undo after the pivot":  {define(alpha(), pivot(gamma()), undoable), `"delta" comes after the pivot and has an Undo that would never run`},
		"negative timeout":      {step(func(s *saga.Step[trip]) { s.Timeout = -1 }), "leave it out for the default"},
		"negative pause":        {step(func(s *saga.Step[trip]) { s.Retry.Min = -1 }), "leave it out for the default"},
		"pauses crossed":        {step(func(s *saga.Step[trip]) { s.Retry = saga.Retry{Min: time.Hour, Max: time.Minute} }), "set a longer Max"},
		"nested": {whole(func(d *saga.Definition[trip]) {
			d.Flow = saga.Sequence[trip]{saga.Sequence[trip]{saga.Step[trip]{Name: "x", Do: saga.Call(noteIt, build, nil)}}}
		}), "set Undo, or NoUndo"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := test.definition.Compile()
			if err == nil || !strings.Contains(err.Error(), test.want) || p != nil {
				t.Errorf("Compile() = %v, %v\nwant %s", p, err, test.want)
			}
		})
	}
}

func TestCompileReportsAllAtOnce(t *testing.T) {
	bad := beta()
	bad.Name, bad.Timeout, bad.Undo = "alpha", -time.Second, saga.Compensation[trip]{}
	d := define(alpha(), bad, pivot(gamma()), pivot(delta()))
	d.Name, d.Version = "", -1
	_, err := d.Compile()
	if err == nil {
		t.Fatal("it compiled")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 6 {
		t.Errorf("%d violations, want 6:\n%v", len(lines), err)
	}
}

func TestCompileAcceptsFlowsWithAndWithoutPivot(t *testing.T) {
	for name, d := range map[string]saga.Definition[trip]{
		"pivot in the middle": standard(),
		"pivot first":         define(pivot(alpha()), delta()),
		"pivot last":          define(alpha(), note(), pivot(delta())),
		"no pivot":            define(alpha(), beta(), gamma()),
	} {
		if p, err := d.Compile(); err != nil || p.Name != "trip" || p.StartType != begin.Type() || p.Topic != begin.Topic() {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}
