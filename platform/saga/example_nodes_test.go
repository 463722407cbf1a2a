package saga_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// A weekend away: the contracts and the state of the examples of nodes. The page
// docs/explanation/nodes.md shows the same.
type (
	Weekend struct {
		ID     string
		Guests []string
		Hotel  string
		Price  int
		Agreed bool
	}
	Plan    struct{ Guests []string }
	Booking struct{ Weekend, For string }
	Booked  struct {
		Name  string
		Price int
	}
	Answer struct{ Agreed bool }
)

var (
	planWeekend  = events.NewCommand[Plan, Booked]("example.weekend.plan.v1")
	bookHotel    = events.NewCommand[Booking, Booked]("example.hotel.book.v1", "full")
	cancelHotel  = events.NewCommand[Booking, events.None]("example.hotel.cancel.v1")
	bookTrain    = events.NewCommand[Booking, Booked]("example.train.book.v1", "sold_out")
	cancelTrain  = events.NewCommand[Booking, events.None]("example.train.cancel.v1")
	chargeCard   = events.NewCommand[Booking, events.None]("example.card.charge.v1", "declined")
	planDinner   = events.NewCommand[Booking, Booked]("example.dinner.plan.v1", "closed")
	partnerSaid  = events.NewFact[Answer]("example.partner.said.v1")
	weatherKnown = events.NewFact[Booking]("example.weather.known.v1")
)

func (w Weekend) booking() Booking { return Booking{Weekend: w.ID} }

func (w *Weekend) hotel(reply Booked) { w.Hotel, w.Price = reply.Name, reply.Price }

func undoBooking(w Weekend, _ saga.Sent[Booking, Booked]) Booking { return w.booking() }

// The steps that the examples put together.
var (
	hotel = saga.Step[Weekend]{
		Name: "book-hotel",
		Do:   saga.Call(bookHotel, Weekend.booking, (*Weekend).hotel),
		Undo: saga.Undo(bookHotel, cancelHotel, undoBooking),
	}
	train = saga.Step[Weekend]{
		Name: "book-train",
		Do:   saga.Call(bookTrain, Weekend.booking, nil),
		Undo: saga.Undo(bookTrain, cancelTrain, undoBooking),
	}
	pay = saga.Step[Weekend]{
		Name:  "charge-card",
		Do:    saga.Call(chargeCard, Weekend.booking, nil),
		Pivot: true,
	}
)

// A step calls a participant, and knows how that is undone.
func ExampleStep() {
	flow := saga.Sequence[Weekend]{
		saga.Step[Weekend]{
			Name:    "book-hotel",
			Do:      saga.Call(bookHotel, Weekend.booking, (*Weekend).hotel),
			Undo:    saga.Undo(bookHotel, cancelHotel, undoBooking),
			Timeout: 20 * time.Second,
			Retry:   saga.Retry{Min: 5 * time.Second, Max: 10 * time.Second},
		},
		saga.Step[Weekend]{Name: "charge-card", Do: saga.Call(chargeCard, Weekend.booking, nil), Pivot: true},
	}

	r := rehearse("step", flow)
	r.reject("charge-card", "declined")
	r.run()
	// Output:
	// send book-hotel
	// send charge-card
	// undo book-hotel
	// compensated because of declined
}

// A sequence is undone in reverse.
func ExampleSequence() {
	flow := saga.Sequence[Weekend]{
		hotel,
		train,
		pay,
	}

	r := rehearse("sequence", flow)
	r.reject("charge-card", "declined")
	r.run()
	// Output:
	// send book-hotel
	// send book-train
	// send charge-card
	// undo book-train
	// undo book-hotel
	// compensated because of declined
}

// Handlers of rejections do something instead of compensating: here the train is
// asked for again after an hour, and the others stay as they are.
func ExampleHandler() {
	flow := saga.Sequence[Weekend]{
		hotel,
		saga.Step[Weekend]{
			Name: "book-train",
			Do:   saga.Call(bookTrain, Weekend.booking, nil),
			Undo: saga.Undo(bookTrain, cancelTrain, undoBooking),
			OnReject: map[events.Code]saga.Handler[Weekend]{
				"sold_out": {Do: saga.Sleep[Weekend]{Name: "somebody-may-cancel", For: time.Hour}, Retry: true},
			},
		},
	}

	r := rehearse("handler", flow)
	r.reject("book-train", "sold_out")
	r.run()
	r.accept("book-train")
	r.pass(time.Hour)
	// Output:
	// send book-hotel
	// send book-train
	// running: somebody-may-cancel[0] is running
	// send book-train
	// completed
}

// A local step changes the engine's own database, in the transaction that records
// it.
func ExampleLocal() {
	flow := saga.Sequence[Weekend]{
		hotel,
		saga.Local[Weekend]{
			Name: "spend-budget",
			Do: func(ctx context.Context, tx pgx.Tx, w *Weekend) error {
				tag, err := tx.Exec(ctx, "update budget set left = left - $1 where left >= $1", w.Price)
				if err == nil && tag.RowsAffected() == 0 {
					return events.Reject("over_budget", "%d is more than what is left", w.Price)
				}
				return err
			},
			Undo: func(ctx context.Context, tx pgx.Tx, w *Weekend) error {
				_, err := tx.Exec(ctx, "update budget set left = left + $1", w.Price)
				return err
			},
		},
		pay,
	}

	r := rehearse("local", flow)
	r.reject("spend-budget", "over_budget") // as if there were less than that left
	r.run()
	// Output:
	// send book-hotel
	// run spend-budget
	// undo book-hotel
	// compensated because of over_budget
}

// A child saga is a step: its result is the reply, its failure the rejection, and
// undoing it compensates all of it.
func ExampleChild() {
	flow := saga.Sequence[Weekend]{
		saga.Child[Weekend]{
			Name:  "dinner",
			Start: saga.Call(planDinner, Weekend.booking, nil),
		},
		pay,
	}

	r := rehearse("child", flow)
	r.reject("charge-card", "declined")
	r.run()
	// Output:
	// send dinner
	// send charge-card
	// undo dinner
	// compensated because of declined
}

// Branches run at the same time. When one fails, what the others did, or may have
// done, is undone at the same time too.
func ExampleParallel() {
	flow := saga.Sequence[Weekend]{
		saga.Parallel[Weekend]{Branches: []saga.Node[Weekend]{
			hotel,
			train,
		}},
		pay,
	}

	r := rehearse("parallel", flow)
	r.reject("charge-card", "declined")
	r.run()
	// Output:
	// send book-hotel
	// send book-train
	// send charge-card
	// undo book-train
	// undo book-hotel
	// compensated because of declined
}

// A choice is made once, from the state; what was chosen is undone.
func ExampleChoice() {
	flow := saga.Sequence[Weekend]{
		hotel,
		saga.Choice[Weekend]{
			Name: "far-away",
			Cases: []saga.Case[Weekend]{
				{When: func(w Weekend) bool { return w.Price > 100 }, Then: train},
			},
		},
		pay,
	}

	r := rehearse("choice", flow)
	r.run()
	// Output:
	// send book-hotel
	// send book-train
	// send charge-card
	// completed
}

// For each item the body runs once, at most Limit of them at the same time.
func ExampleForEach() {
	type each = saga.Each[Weekend, string]
	flow := saga.Sequence[Weekend]{
		saga.ForEach[Weekend, string]{
			Name:  "each-guest",
			Items: func(w Weekend) []string { return w.Guests },
			Limit: 2,
			Body: saga.Step[each]{
				Name: "book-seat",
				Do:   saga.Call(bookTrain, func(e each) Booking { return Booking{e.State.ID, e.Item} }, nil),
				Undo: saga.Undo(bookTrain, cancelTrain, func(_ each, sent saga.Sent[Booking, Booked]) Booking { return sent.Request }),
			},
		},
		pay,
	}

	r := rehearse("for-each", flow)
	r.reject("book-seat[2]", "sold_out")
	r.run()
	// Output:
	// send book-seat[0]
	// send book-seat[1]
	// send book-seat[2]
	// undo book-seat[1]
	// undo book-seat[0]
	// compensated because of sold_out
}

// An await waits for a signal until its timeout. One that came before is kept.
func ExampleAwait() {
	flow := saga.Sequence[Weekend]{
		hotel,
		saga.Await[Weekend]{
			Name:        "partner-agrees",
			For:         saga.Signal(partnerSaid, func(w *Weekend, said Answer) { w.Agreed = said.Agreed }),
			Timeout:     24 * time.Hour,
			TimeoutCode: "no_answer_at_all",
		},
		pay,
	}

	r := rehearse("await", flow)
	r.run()
	r.pass(24 * time.Hour)

	r = rehearse("await", flow)
	r.run()
	r.signal(partnerSaid.Type(), Answer{Agreed: true})
	// Output:
	// send book-hotel
	// running: partner-agrees is running
	// undo book-hotel
	// compensated because of no_answer_at_all
	// send book-hotel
	// running: partner-agrees is running
	// send charge-card
	// completed
}

// An event is a fact that somebody publishes for reasons of their own; its payload
// tells which saga it is for.
func ExampleEvent() {
	flow := saga.Sequence[Weekend]{
		saga.Await[Weekend]{
			Name: "forecast",
			For: saga.Event(weatherKnown,
				func(b Booking) (sagaID string) { return b.Weekend },
				func(w *Weekend, b Booking) { w.Agreed = b.For == "sun" }),
			Timeout:   72 * time.Hour,
			OnTimeout: saga.Step[Weekend]{Name: "book-museum", Do: saga.Call(bookTrain, Weekend.booking, nil), NoUndo: "tickets are free"},
		},
		hotel,
	}

	r := rehearse("event", flow)
	r.run()
	r.pass(72 * time.Hour)
	// Output:
	// running: forecast is running
	// send book-museum
	// send book-hotel
	// completed
}

// A sleep lets time pass, however often the engine is restarted meanwhile.
func ExampleSleep() {
	flow := saga.Sequence[Weekend]{
		hotel,
		saga.Sleep[Weekend]{Name: "think-it-over", For: 48 * time.Hour},
		pay,
	}

	r := rehearse("sleep", flow)
	r.run()
	r.pass(47 * time.Hour)
	r.pass(time.Hour)
	// Output:
	// send book-hotel
	// running: think-it-over is running
	// running: think-it-over is running
	// send charge-card
	// completed
}

// Decide lets Go code pick what comes next, turn by turn.
func ExampleDecide() {
	flow := saga.Decide[Weekend]{
		Name: "shop-around",
		Next: func(w Weekend, turn int) string {
			switch {
			case turn == 0:
				return "hotel"
			case w.Price > 100 && turn < 3:
				return "train"
			}
			return ""
		},
		Options: map[string]saga.Node[Weekend]{"hotel": hotel, "train": train},
	}

	r := rehearse("decide", flow)
	r.reject("book-train[2]", "sold_out")
	r.run()
	// Output:
	// send book-hotel[0]
	// send book-train[1]
	// send book-train[2]
	// undo book-train[1]
	// undo book-hotel[0]
	// compensated because of sold_out
}

// rehearsed holds the diagrams of the examples, for the test of the page that shows
// them.
var rehearsed = make(map[string]string)

// rehearsal is a saga that the examples play in memory: every command is obeyed at
// once, unless it is to be rejected.
type rehearsal struct {
	program *saga.Program
	saga    saga.Instance
	open    []saga.Effect
	now     time.Time
	no      map[string]events.Code
}

func rehearse(name string, flow saga.Node[Weekend]) *rehearsal {
	program, err := saga.Definition[Weekend]{
		Name: "weekend", Version: 1,
		Start: saga.On(planWeekend,
			func(id string, plan Plan) Weekend { return Weekend{ID: id, Guests: plan.Guests} },
			func(w Weekend) Booked { return Booked{w.Hotel, w.Price} }),
		Flow: flow,
	}.Compile()
	if err != nil {
		panic(err)
	}
	rehearsed[name] = program.Mermaid()
	r := &rehearsal{program: program, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), no: make(map[string]events.Code)}
	r.decide(saga.Input{Start: &saga.StartInput{
		ID: "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f", Request: []byte(`{"Guests":["ada","grace","joan"]}`),
	}})
	return r
}

func (r *rehearsal) reject(step string, code events.Code) { r.no[step] = code }
func (r *rehearsal) accept(step string)                   { delete(r.no, step) }

func (r *rehearsal) pass(d time.Duration) {
	r.now = r.now.Add(d)
	r.decide(saga.Input{Tick: true})
	r.run()
}

func (r *rehearsal) signal(signalType string, payload any) {
	data, err := json.Marshal(payload)
	if err != nil {
		panic(err)
	}
	r.decide(saga.Input{Signal: &saga.SignalInput{ID: events.NewID(), Type: signalType, Data: data}})
	r.run()
}

// run plays until nothing but time or a signal can go on, and says how it stands.
func (r *rehearsal) run() {
	for r.answer() || r.local() {
	}
	fmt.Print(r.saga.Status)
	if r.saga.Failure != nil {
		fmt.Print(" because of ", r.saga.Failure.Code)
	}
	for _, step := range r.saga.Steps {
		if !r.saga.Status.Final() && step.Status == saga.StepRunning {
			fmt.Printf(": %s is %s", step.Name, step.Status)
		}
	}
	fmt.Println()
}

func (r *rehearsal) answer() bool {
	if len(r.open) == 0 {
		return false
	}
	e := r.open[0]
	r.open = r.open[1:]
	reply := saga.ReplyInput{CommandID: e.ID, Data: []byte(`{"Name":"Ritz","Price":120}`)}
	if code := r.no[e.Step]; code != "" && e.Undoes == "" {
		reply.Rejection = &events.Rejection{Code: code}
	}
	r.decide(saga.Input{Reply: &reply})
	return true
}

// local pretends to be the engine that runs a local step.
func (r *rehearsal) local() bool {
	for _, step := range r.saga.Steps {
		if step.Kind != "local step" || step.Status != saga.StepRunning {
			continue
		}
		fmt.Println("run", step.Name)
		input := saga.LocalInput{Step: step.Name, State: r.saga.State}
		if code := r.no[step.Name]; code != "" {
			input.Rejection = &events.Rejection{Code: code}
		}
		r.decide(saga.Input{Local: &input})
		return true
	}
	return false
}

func (r *rehearsal) decide(input saga.Input) {
	out, effects, _ := r.program.Decide(r.saga, input, r.now)
	for _, e := range effects {
		verb := "send"
		if e.Undoes != "" {
			verb = "undo"
		}
		fmt.Println(verb, e.Step)
		r.open = append(r.open, e)
	}
	r.saga = out
}
