package review

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/saga"
)

// What reading the note of one order may cost, and for how long that is put by.
const (
	triageNano    = 50_000_000 // $0.05
	triageSeconds = 15 * 60
)

// triageWithin is how long each of the steps about a note may take. It is longer than
// what calls models is away as a rule, and than it takes to find that it died in the
// middle of a call: a step without an answer undoes the order.
const triageWithin = 3 * time.Minute

// triagePrompt is the published prompt that sorts notes. A person who publishes another
// version, or moves its channel, changes what sagas ask from then on.
const triagePrompt = "triage"

// harmless is the verdict about a note that nobody needs to read.
const harmless = "harmless"

// triageBudget puts money by before anything else happens, so that an order is not
// begun with a note that nobody can pay to have read.
func triageBudget() saga.Node[Order] {
	return saga.Choice[Order]{
		Name: "has-note",
		Cases: []saga.Case[Order]{{When: Order.hasNote, Then: saga.Step[Order]{
			Name:     "reserve-triage",
			Do:       saga.Call(ai.ReserveBudget, Order.reserveTriage, (*Order).triageReserved),
			Undo:     saga.Undo(ai.ReserveBudget, ai.ReleaseBudget, Order.releaseReserved),
			Timeout:  triageWithin,
			OnReject: readByAPerson("reserve-triage", ai.BudgetExhausted, ai.RateLimited),
		}}},
	}
}

// triage has a model sort the note. Where it cannot, a person reads it: no order is lost
// because a model, its provider or its budget lacks.
func triage() saga.Node[Order] {
	return saga.Choice[Order]{
		Name: "triage-note",
		Cases: []saga.Case[Order]{{When: Order.canTriage, Then: saga.Sequence[Order]{
			saga.Step[Order]{
				Name:   "triage",
				Do:     saga.Call(ai.Complete, Order.triage, (*Order).triaged),
				NoUndo: "what was asked cannot be unasked, and what it cost stays spent",
				OnReject: readByAPerson("triage", ai.BudgetExhausted, ai.RateLimited, ai.PriceUnknown, ai.CallRefused, ai.CallUnavailable,
					ai.Uncertain, ai.OutputInvalid),
				Timeout: triageWithin,
			},
			saga.Step[Order]{
				Name:    "release-triage",
				Do:      saga.Call(ai.ReleaseBudget, Order.releaseTriage, nil),
				NoUndo:  "it gives back what nobody needs any more",
				Timeout: triageWithin,
			},
		}}},
	}
}

// readByAPerson handles rejections of a step by having a person decide about the order.
func readByAPerson(step string, codes ...events.Code) map[events.Code]saga.Handler[Order] {
	handlers := make(map[events.Code]saga.Handler[Order], len(codes))
	for _, code := range codes {
		handlers[code] = saga.Handler[Order]{Do: saga.Local[Order]{
			Name: step + "-" + strings.ReplaceAll(string(code), "_", "-"), NoUndo: "it only asks for a person",
			Do: func(_ context.Context, _ pgx.Tx, o *Order) error {
				o.Triage = "unread: " + string(code)
				return nil
			},
		}}
	}
	return handlers
}

func (o Order) hasNote() bool { return o.Note != "" }

func (o Order) canTriage() bool { return o.Note != "" && o.TriageReserved }

var payer = ai.Caller{Tenant: "shop", App: "review"}

func (o Order) reserveTriage() ai.ReserveBudgetRequest {
	return ai.ReserveBudgetRequest{Reservation: o.ID, Caller: payer, NanoUSD: triageNano, Tokens: 10_000, Seconds: triageSeconds}
}

func (o *Order) triageReserved(ai.BudgetReservation) { o.TriageReserved = true }

func (o Order) releaseReserved(saga.Sent[ai.ReserveBudgetRequest, ai.BudgetReservation]) ai.ReleaseBudgetRequest {
	return o.releaseTriage()
}

func (o Order) releaseTriage() ai.ReleaseBudgetRequest {
	return ai.ReleaseBudgetRequest{Reservation: o.ID}
}

func (o Order) triage() ai.CompleteRequest {
	variables, err := json.Marshal(map[string]string{"note": o.Note})
	if err != nil {
		panic(err) // a map of strings
	}
	return ai.CompleteRequest{Caller: payer, Prompt: triagePrompt, Variables: variables, Reservation: o.ID}
}

func (o *Order) triaged(reply ai.Completion) {
	var output struct {
		Verdict string `json:"verdict"`
	}
	if err := json.Unmarshal(reply.Output, &output); err != nil || output.Verdict == "" {
		output.Verdict = "unread: output_invalid"
	}
	o.Triage = output.Verdict
}
