package saga_test

import (
	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// The contracts and the saga of these tests: a trip of up to four legs.
type (
	booking struct {
		Trip string `json:"trip"`
		Fail string `json:"fail,omitempty"` // name of a user function that is to panic
	}
	ticket  struct{ Number int }
	refund  struct{ Trip, Why string }
	arrived struct{ Tickets []int }
)

var (
	begin  = events.NewCommand[booking, arrived]("test.trip.begin.v1")
	doA    = events.NewCommand[booking, ticket]("test.alpha.do.v1", "full")
	undoA  = events.NewCommand[refund, events.None]("test.alpha.undo.v1")
	doB    = events.NewCommand[booking, ticket]("test.beta.do.v1", "full")
	undoB  = events.NewCommand[refund, events.None]("test.beta.undo.v1")
	doC    = events.NewCommand[booking, ticket]("test.gamma.do.v1", "full")
	undoC  = events.NewCommand[refund, events.None]("test.gamma.undo.v1")
	doD    = events.NewCommand[booking, ticket]("test.delta.do.v1", "full")
	noteIt = events.NewCommand[booking, events.None]("test.note.do.v1")
)

// trip is the state. Fail names the user function that panics.
type trip struct {
	ID      string
	Tickets []int  `json:",omitempty"`
	Fail    string `json:",omitempty"`
}

func (s trip) fail(where string) {
	if s.Fail == where {
		panic("told to fail in " + where)
	}
}

func newTrip(id string, request booking) trip {
	s := trip{ID: id, Fail: request.Fail}
	s.fail("begin")
	return s
}

func (s trip) result() arrived {
	s.fail("result")
	return arrived{s.Tickets}
}

func call(name string, command events.Command[booking, ticket]) saga.Action[trip] {
	return saga.Call(command, func(s trip) booking {
		s.fail("build " + name)
		return booking{Trip: s.ID}
	}, func(s *trip, reply ticket) {
		s.fail("fold " + name)
		s.Tickets = append(s.Tickets, reply.Number)
	})
}

func undo(name string, done events.Command[booking, ticket], command events.Command[refund, events.None]) saga.Compensation[trip] {
	return saga.Undo(done, command, func(s trip, sent saga.Sent[booking, ticket]) refund {
		s.fail("undo " + name)
		why := "in doubt"
		if !sent.InDoubt {
			why = "ticket"
		}
		return refund{sent.Request.Trip, why}
	})
}

// The steps. alpha, beta and gamma can be undone, delta cannot.
func alpha() saga.Step[trip] {
	return saga.Step[trip]{Name: "alpha", Do: call("alpha", doA), Undo: undo("alpha", doA, undoA)}
}

func beta() saga.Step[trip] {
	return saga.Step[trip]{Name: "beta", Do: call("beta", doB), Undo: undo("beta", doB, undoB)}
}

func gamma() saga.Step[trip] {
	return saga.Step[trip]{Name: "gamma", Do: call("gamma", doC), Undo: undo("gamma", doC, undoC)}
}

func delta() saga.Step[trip] { return saga.Step[trip]{Name: "delta", Do: call("delta", doD)} }

func note() saga.Step[trip] {
	build := func(s trip) booking { return booking{Trip: s.ID} }
	return saga.Step[trip]{Name: "note", Do: saga.Call(noteIt, build, nil), NoUndo: "a note does no harm"}
}

func pivot(s saga.Step[trip]) saga.Step[trip] {
	s.Pivot, s.Undo = true, saga.Compensation[trip]{}
	return s
}

func define(steps ...saga.Step[trip]) saga.Definition[trip] {
	flow := saga.Sequence[trip]{}
	for _, s := range steps {
		flow = append(flow, s)
	}
	return saga.Definition[trip]{Name: "trip", Version: 1, Start: saga.On(begin, newTrip, trip.result), Flow: flow}
}

// standard is alpha, beta, then gamma as the pivot, then delta.
func standard() saga.Definition[trip] { return define(alpha(), beta(), pivot(gamma()), delta()) }
