package saga_test

import (
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

type (
	Purchase struct {
		ID    string `json:"id"`
		Price int    `json:"price"`
		Hold  string `json:"hold,omitempty"`
	}
	Order   struct{ Price int }
	Receipt struct{ ID string }
	Amount  struct{ Cents int }
	Hold    struct{ ID string }
)

var (
	buy     = events.NewCommand[Order, Receipt]("example.shop.buy.v1")
	hold    = events.NewCommand[Amount, Hold]("example.bank.hold.v1", "no_money")
	release = events.NewCommand[Hold, events.None]("example.bank.release.v1")
	ship    = events.NewCommand[events.None, events.None]("example.parcel.ship.v1", "sold_out")
)

// A definition is a table of steps. This one holds money and lets it go again
// when the parcel cannot be shipped.
func ExampleDefinition() {
	definition := saga.Definition[Purchase]{
		Name: "purchase", Version: 1,
		Start: saga.On(buy,
			func(id string, request Order) Purchase { return Purchase{ID: id, Price: request.Price} },
			func(p Purchase) Receipt { return Receipt{p.ID} }),
		Flow: saga.Sequence[Purchase]{
			saga.Step[Purchase]{
				Name: "hold-money",
				Do: saga.Call(hold,
					func(p Purchase) Amount { return Amount{p.Price} },
					func(p *Purchase, reply Hold) { p.Hold = reply.ID }),
				Undo: saga.Undo(hold, release,
					func(_ Purchase, sent saga.Sent[Amount, Hold]) Hold { return sent.Reply }),
			},
			saga.Step[Purchase]{
				Name:  "ship-parcel",
				Do:    saga.Call(ship, func(Purchase) events.None { return events.None{} }, nil),
				Pivot: true, Timeout: time.Hour,
			},
		},
	}
	program, err := definition.Compile()
	if err != nil {
		fmt.Println(err)
		return
	}

	now := time.Now()
	in, commands, _ := program.Decide(saga.Instance{}, saga.Input{
		Start: &saga.StartInput{ID: events.NewID(), Request: []byte(`{"Price":1200}`)},
	}, now)
	fmt.Printf("%s %s\n", commands[0].Type, commands[0].Data)

	in, commands, _ = program.Decide(in, saga.Input{
		Reply: &saga.ReplyInput{CommandID: commands[0].ID, Data: []byte(`{"ID":"h-1"}`)},
	}, now)
	fmt.Printf("%s %s\n", commands[0].Type, commands[0].Data)

	in, commands, _ = program.Decide(in, saga.Input{
		Reply: &saga.ReplyInput{CommandID: commands[0].ID, Rejection: &events.Rejection{Code: "sold_out"}},
	}, now)
	fmt.Printf("%s %s\n", commands[0].Type, commands[0].Data)

	in, _, _ = program.Decide(in, saga.Input{Reply: &saga.ReplyInput{CommandID: commands[0].ID}}, now)
	fmt.Println(in.Status, in.Failure.Code)
	// Output:
	// example.bank.hold.v1 {"Cents":1200}
	// example.parcel.ship.v1 {}
	// example.bank.release.v1 {"ID":"h-1"}
	// compensated sold_out
}

// The diagram of a definition, for a README or a dashboard.
func ExampleProgram_Mermaid() {
	program, err := define(alpha(), pivot(beta())).Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(program.Mermaid())
	// Output:
	// flowchart LR
	//   start([test.trip.begin.v1])
	//   s0["alpha<br/><small>test.alpha.do.v1</small>"]
	//   start --> s0
	//   s1[["<b>beta</b><br/><small>test.beta.do.v1, pivot</small>"]]
	//   s0 --> s1
	//   completed([completed])
	//   s1 --> completed
	//   u0["undo alpha<br/><small>test.alpha.undo.v1</small>"]
	//   s0 -. undo .-> u0
	//   compensated([compensated])
	//   u0 -.-> compensated
}
