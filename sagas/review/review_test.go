package review_test

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/internal/play"
	"github.com/countermand/countermand/sagas/review"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

var (
	definition = review.New(24 * time.Hour)
	request    = shop.ReviewRequest{
		Customer: "ada", Currency: "EUR", Items: []shop.Item{{SKU: "MUG-001", Quantity: 84}}, Payment: shop.Payment{Token: "tok_ok"},
	}
	held   = []string{"create-order", "reserve-stock", "authorize-payment"}
	undone = []string{"-authorize-payment", "-reserve-stock", "-create-order"}
)

func reserved(total int64) map[string]play.Answer {
	return map[string]play.Answer{
		"reserve-stock":     {Reply: shop.StockReserved{Total: total}},
		"authorize-payment": {Reply: shop.PaymentAuthorized{AuthorizationID: "auth-1"}},
	}
}

func decide(p *play.Play, id string, approved bool) {
	p.T.Helper()
	p.Signal(id, shop.ReviewDecided.Type(), shop.ReviewDecision{Approved: approved, By: "grace", Note: "known customer"})
}

// local has the engine run the local step that is due.
func local(p *play.Play, name string) {
	p.T.Helper()
	if r := p.Step(name); r.Status != saga.StepRunning {
		p.T.Fatalf("%s is %s", name, r.Status)
	}
	p.Decide(saga.Input{Local: &saga.LocalInput{Step: name, Rejection: &events.Rejection{Code: shop.ReviewDeclined, Message: "the order was not approved"}}})
	p.Run()
}

func TestAnOrderThatIsApprovedIsFulfilled(t *testing.T) {
	p := play.New(t, definition, request, reserved(100_800))
	p.Run()
	p.Want(saga.Running, "", held...)
	if wait := p.Step("decision"); wait.Status != saga.StepRunning || !wait.Do.Deadline.Equal(play.Begin.Add(24*time.Hour)) {
		t.Errorf("the decision is %s until %s", wait.Status, wait.Do.Deadline)
	}
	p.Pass(23 * time.Hour)
	decide(p, "signal-1", true)
	decide(p, "signal-2", false) // too late to be another one
	p.Run()
	p.Want(saga.Completed, "", append(held, "fulfil")...)
	var result shop.ReviewResult
	if err := json.Unmarshal(p.Saga.Result, &result); err != nil {
		t.Fatal(err)
	}
	if want := (shop.ReviewResult{OrderID: play.ID, Total: 100_800, Currency: "EUR", Reviewed: true}); result != want {
		t.Errorf("result %+v, want %+v", result, want)
	}
}

func TestWhoIsAsked(t *testing.T) {
	for name, test := range map[string]struct {
		total int64
		flag  string
		asked bool
	}{
		"a small order":         {99_999, "", false},
		"a large one":           {100_000, "", true},
		"a small one with flag": {450, "first order", true},
	} {
		t.Run(name, func(t *testing.T) {
			request := request
			request.Flag = test.flag
			p := play.New(t, definition, request, reserved(test.total))
			p.Run()
			if test.asked {
				p.Want(saga.Running, "", held...)
				return
			}
			p.Want(saga.Completed, "", append(held, "fulfil")...)
			if !strings.Contains(string(p.Saga.Result), `"reviewed":false`) {
				t.Errorf("result %s", p.Saga.Result)
			}
		})
	}
}

func TestADecisionThatComesBeforeItIsAwaitedIsKept(t *testing.T) {
	p := play.New(t, definition, request, reserved(100_800))
	decide(p, "signal-1", true) // the stock is not even reserved
	p.Want(saga.Running, "", "create-order")
	p.Run()
	p.Want(saga.Completed, "", append(held, "fulfil")...)
}

func TestAnOrderThatIsDeclinedIsUndone(t *testing.T) {
	p := play.New(t, definition, request, reserved(100_800))
	p.Run()
	decide(p, "signal-1", false)
	local(p, "decline")
	p.Want(saga.Compensated, shop.ReviewDeclined, append(held, undone...)...)
	if strings.Contains(p.Saga.Failure.Message, "known customer") {
		t.Errorf("the customer is told %q", p.Saga.Failure.Message)
	}
	var cancel shop.CancelOrderRequest
	if err := json.Unmarshal(p.Step("create-order").Undo.Request, &cancel); err != nil || cancel.Reason != "not approved" {
		t.Errorf("the order is cancelled with %+v, error %v", cancel, err)
	}
}

func TestAnOrderThatNobodyLooksAtIsUndone(t *testing.T) {
	p := play.New(t, definition, request, reserved(100_800))
	p.Run()
	p.Pass(24*time.Hour - time.Second)
	p.Want(saga.Running, "", held...)
	p.Pass(time.Second)
	decide(p, "signal-1", true) // a second too late
	p.Run()
	p.Want(saga.Compensated, shop.ReviewExpired, append(held, undone...)...)
}

func TestACardThatIsDeclinedEndsTheWait(t *testing.T) {
	answers := reserved(100_800)
	answers["authorize-payment"] = play.Answer{Reject: shop.CardDeclined}
	p := play.New(t, definition, request, answers)
	p.Run()
	p.Want(saga.Compensated, shop.CardDeclined, append(held, "-reserve-stock", "-create-order")...)
	if wait := p.Step("decision"); wait.Status != saga.StepCancelled {
		t.Errorf("the decision is %s", wait.Status)
	}
}

// The child is the pivot: what it is told no for is undone here, and while it does
// not answer nothing is.
func TestAFulfilment(t *testing.T) {
	t.Run("that is rejected is undone", func(t *testing.T) {
		answers := reserved(450)
		answers["fulfil"] = play.Answer{Reject: shop.CaptureFailed}
		p := play.New(t, definition, request, answers)
		p.Run()
		p.Want(saga.Compensated, shop.CaptureFailed, append(append(held, "fulfil"), undone...)...)
	})
	t.Run("that does not answer is asked for again", func(t *testing.T) {
		answers := reserved(450)
		answers["fulfil"] = play.Answer{Silent: true}
		p := play.New(t, definition, request, answers)
		p.Run()
		p.Pass(time.Hour)
		p.Want(saga.Stuck, "no_answer", append(held, "fulfil")...)
	})
}

func TestDiagram(t *testing.T) {
	program, err := definition.Compile()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/diagram.mmd", []byte(program.Mermaid()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/diagram.mmd")
	if err != nil || string(want) != program.Mermaid() {
		t.Errorf("the diagram is another one (%v); run: go test ./review -update", err)
	}
}
