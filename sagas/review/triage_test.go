package review_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/internal/play"
)

// noted is what was sent for an order with a note, up to where a person decides.
var noted = []string{"reserve-triage", "create-order", "reserve-stock", "triage", "release-triage", "authorize-payment"}

func verdict(text string) map[string]play.Answer {
	answers := reserved(450)
	answers["reserve-triage"] = play.Answer{Reply: ai.BudgetReservation{Budgets: 1}}
	answers["triage"] = play.Answer{Reply: ai.Completion{Output: json.RawMessage(text)}}
	return answers
}

func TestAModelSortsNotes(t *testing.T) {
	request := request
	request.Note = "please gift-wrap it"
	p := play.New(t, definition, request, verdict(`{"verdict":"harmless"}`))
	p.Run()
	p.Want(saga.Completed, "", append(noted, "fulfil")...)
	if !strings.Contains(string(p.Saga.Result), `"triage":"harmless"`) {
		t.Errorf("result %s", p.Saga.Result)
	}
	var asked ai.CompleteRequest
	if err := json.Unmarshal(p.Step("triage").Do.Request, &asked); err != nil || asked.Reservation != play.ID || !strings.Contains(string(asked.Variables), "gift-wrap") {
		t.Errorf("asked %+v, %v", asked, err)
	}
	for _, output := range []string{`{"verdict":"fraud"}`, `{"other":1}`, `"text"`} {
		p := play.New(t, definition, request, verdict(output))
		p.Run()
		p.Want(saga.Running, "", noted...) // a person decides
	}
}

func TestAPersonReadsWhatNoModelHas(t *testing.T) {
	request := request
	request.Note = "please gift-wrap it"
	for _, code := range []events.Code{
		ai.BudgetExhausted, ai.RateLimited, ai.PriceUnknown, ai.CallRefused, ai.CallUnavailable, ai.Uncertain, ai.OutputInvalid,
	} {
		answers := verdict("")
		answers["triage"] = play.Answer{Reject: code}
		p := play.New(t, definition, request, answers)
		p.Run()
		person(p, "triage-"+strings.ReplaceAll(string(code), "_", "-"))
		p.Want(saga.Running, "", noted...)
	}
	for _, code := range []events.Code{ai.BudgetExhausted, ai.RateLimited} {
		answers := verdict("")
		answers["reserve-triage"] = play.Answer{Reject: code}
		p := play.New(t, definition, request, answers)
		p.Run()
		person(p, "reserve-triage-"+strings.ReplaceAll(string(code), "_", "-"))
		p.Want(saga.Running, "", append([]string{"reserve-triage"}, held...)...)
	}
}

// A call whose worker dies is known to be uncertain only after a while, and what calls
// models may be away for some time.
func TestAnOrderOutlivesWhatCallsModels(t *testing.T) {
	request := request
	request.Note = "please gift-wrap it"
	for _, step := range []string{"reserve-triage", "triage", "release-triage"} {
		answers := verdict(`{"verdict":"harmless"}`)
		answer := answers[step]
		answers[step] = play.Answer{Silent: true}
		p := play.New(t, definition, request, answers)
		p.Run()
		p.Pass(90 * time.Second)
		if r := p.Step(step); p.Saga.Status != saga.Running || r.Status != saga.StepRunning {
			t.Fatalf("%s: the saga is %s and the step %s", step, p.Saga.Status, r.Status)
		}
		answers[step] = answer
		p.Pass(time.Minute) // it is asked for again
		p.Run()
		if p.Saga.Status != saga.Completed {
			t.Errorf("%s: the saga is %s", step, p.Saga.Status)
		}
	}
}

// person has the engine run the local step that asks for a person.
func person(p *play.Play, name string) {
	p.T.Helper()
	name += "[0]" // a handler may run again
	if r := p.Step(name); r.Status != saga.StepRunning {
		p.T.Fatalf("%s is %s", name, r.Status)
	}
	state := strings.Replace(string(p.Saga.State), `{`, `{"triage":"unread",`, 1)
	p.Decide(saga.Input{Local: &saga.LocalInput{Step: name, State: json.RawMessage(state)}})
	p.Run()
}

func TestMoneyPutByGoesBackWhenTheOrderIsUndone(t *testing.T) {
	request := request
	request.Note = "please gift-wrap it"
	answers := verdict(`{"verdict":"harmless"}`)
	answers["reserve-stock"] = play.Answer{Reject: "out_of_stock"}
	p := play.New(t, definition, request, answers)
	p.Run()
	p.Want(saga.Compensated, "out_of_stock", "reserve-triage", "create-order", "reserve-stock", "-create-order", "-reserve-triage")
}
