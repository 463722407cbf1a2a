package sagatest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/saga/sagatest"
)

// A loan holds a book at the library and asks a librarian; without an answer
// within a day, or with a no, the book goes back to the shelf.

type (
	Loan struct {
		Reader string
		Copy   int
		Agreed bool
	}
	Wish   struct{ Reader string }
	Copy   struct{ Number int }
	Answer struct{ Yes bool }
)

var (
	Borrow  = events.NewCommand[Wish, Copy]("example.loan.request.v1")
	Hold    = events.NewCommand[Wish, Copy]("example.shelf.hold.v1", "not_there")
	Release = events.NewCommand[Copy, events.None]("example.shelf.release.v1")
	Lend    = events.NewCommand[Copy, events.None]("example.shelf.lend.v1", "not_agreed")
	Decided = events.NewFact[Answer]("example.desk.decided.v1")
)

var Library = saga.Definition[Loan]{
	Name: "loan", Version: 1,
	Start: saga.On(Borrow,
		func(_ string, w Wish) Loan { return Loan{Reader: w.Reader} },
		func(l Loan) Copy { return Copy{l.Copy} }),
	Flow: saga.Sequence[Loan]{
		saga.Step[Loan]{
			Name: "hold-book",
			Do:   saga.Call(Hold, func(l Loan) Wish { return Wish{l.Reader} }, func(l *Loan, c Copy) { l.Copy = c.Number }),
			Undo: saga.Undo(Hold, Release, func(_ Loan, sent saga.Sent[Wish, Copy]) Copy { return sent.Reply }),
		},
		saga.Await[Loan]{
			Name: "ask-librarian", Timeout: 24 * time.Hour, TimeoutCode: "nobody_there",
			For: saga.Signal(Decided, func(l *Loan, a Answer) { l.Agreed = a.Yes }),
		},
		saga.Step[Loan]{Name: "lend-book", Pivot: true, Do: saga.Call(Lend, func(l Loan) Copy { return Copy{l.Copy} }, nil)},
	},
}

// reporter stands for the *testing.T that a test has.
type reporter struct{ testing.TB }

func (reporter) Helper()                           {}
func (reporter) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (reporter) Fatalf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (reporter) Logf(string, ...any)               {}
func (reporter) Fatal(args ...any)                 { fmt.Println(args...) }
func (reporter) Name() string                      { return "TestLibrary" }
func (reporter) Context() context.Context          { return context.Background() }
func (reporter) Cleanup(func())                    {} // the database goes with its server

var t reporter

// A script says what comes and checks what the saga makes of it.
func ExamplePlay() {
	s := sagatest.Play(t, Library)
	s.Start(Wish{"ada"}).Sends("hold-book")
	s.Reply("hold-book", Copy{7}).Sends()
	s.Wait(23*time.Hour).Ends(saga.Running, "")
	s.Wait(time.Hour).Sends("-hold-book")
	s.Reply("hold-book", nil).Ends(saga.Compensated, "nobody_there")
	fmt.Print(s.Trace())
	// Output:
	//       0s start {"Reader":"ada"}
	//          -> hold-book #1 example.shelf.hold.v1 {"Reader":"ada"}
	//          == running
	//       0s reply of hold-book {"Number":7}
	//          await ask-librarian is running
	//  24h0m0s tick
	//          <- hold-book #1 example.shelf.release.v1 {"Number":7}
	//          await ask-librarian is timed_out
	//          == compensating because of nobody_there at ask-librarian
	//  24h0m0s reply of hold-book
	//          == compensated because of nobody_there at ask-librarian
}

// Signals may come before they are awaited, and twice.
func ExampleScript_Signal() {
	s := sagatest.Play(t, Library)
	s.Start(Wish{"ada"})
	s.Signal(Decided, Answer{true}).Again()
	s.Reply("hold-book", Copy{7}).Sends("hold-book", "lend-book")
	var loan Loan
	s.State(&loan)
	fmt.Printf("%+v\n", loan)
	// Output: {Reader:ada Copy:7 Agreed:true}
}

// Operators give orders; one that the saga cannot obey is refused.
func ExampleScript_Order() {
	s := sagatest.Play(t, Library)
	s.Start(Wish{"ada"}).Reply("hold-book", Copy{7})
	fmt.Println(s.Order(saga.Order{Verb: saga.Skip, Step: "ask-librarian", By: "eve", Reason: "she knows him"}))
	fmt.Println(s.Order(saga.Order{Verb: saga.Cancel, By: "ada"}))
	// Output:
	// <nil>
	// the saga has passed its pivot and only goes forward
}

// Every definition should have this test.
func ExampleUnwind() {
	sagatest.Unwind(t, Library)
	// Output:
}

// Explore plays as many worlds as you have time for. Here the librarian knows
// whom to trust, and at the end every loan that was made was agreed upon.
func ExampleExplore() {
	sagatest.Explore(t, Library, 200,
		sagatest.Reply(Lend, func(c Copy) (events.None, error) {
			if c.Number == 13 {
				return events.None{}, events.Reject("not_agreed", "this copy stays here")
			}
			return events.None{}, nil
		}),
		sagatest.Check(func(sagas []saga.Instance) error {
			for _, in := range sagas {
				if in.Status == saga.Completed && string(in.Result) == `{"Number":13}` {
					return fmt.Errorf("saga %s lent copy 13", in.ID)
				}
			}
			return nil
		}),
	)
	// Output:
}

// A fold that takes the last word as the answer depends on the order of replies.
func ExampleCommute() {
	type Prices struct{ Best int }
	ask := events.NewCommand[events.None, Copy]("example.price.ask.v1")
	offer := func(name string) saga.Step[Prices] {
		return saga.Step[Prices]{
			Name: name, NoUndo: "asking does no harm",
			Do: saga.Call(ask, func(Prices) events.None { return events.None{} }, func(p *Prices, c Copy) { p.Best = c.Number }),
		}
	}
	sagatest.Commute(t, saga.Definition[Prices]{
		Name: "prices", Version: 1,
		Start: saga.On(ask, func(string, events.None) Prices { return Prices{} }, func(p Prices) Copy { return Copy{p.Best} }),
		Flow:  saga.Parallel[Prices]{Branches: []saga.Node[Prices]{offer("one"), offer("other")}},
	})
	// Output:
	// run 0: the order of the replies of one and other matters: the states are
	// {"Best":93}
	// {"Best":57}
	// let their folds write different fields, or such that order does not count
}
