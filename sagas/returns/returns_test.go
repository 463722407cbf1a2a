package returns_test

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/internal/play"
	"github.com/countermand/countermand/sagas/returns"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

const order = "018f3a5e-0000-7c44-9d6c-0a1b2c3d4e5f"

// threeItems comes in four lines.
var threeItems = shop.ReturnRequest{
	OrderID: order, Reason: "too many",
	Items: []shop.Item{{SKU: "TEA-001", Quantity: 1}, {SKU: "MUG-001", Quantity: 2}, {SKU: "TEA-001", Quantity: 1}, {SKU: "RARE-001", Quantity: 1}},
}

// obeyed is what participants say when nothing is in the way.
func obeyed() map[string]play.Answer {
	return map[string]play.Answer{
		"open-return":     {Reply: shop.ReturnOpened{Customer: "ada", Currency: "EUR"}},
		"restock-item[0]": {Reply: shop.ItemRestocked{Refund: 900, Currency: "EUR"}},
		"restock-item[1]": {Reply: shop.ItemRestocked{Refund: 2400, Currency: "EUR"}},
		"restock-item[2]": {Reply: shop.ItemRestocked{Refund: 9900, Currency: "EUR"}},
		"refund-payment":  {Reply: shop.PaymentRefunded{Refunded: 13200}},
		"complete-return": {Reply: shop.ReturnCompleted{OrderStatus: "returned"}},
	}
}

func with(answers map[string]play.Answer, step string, answer play.Answer) map[string]play.Answer {
	answers[step] = answer
	return answers
}

var forward = []string{"open-return", "restock-item[0]", "restock-item[1]", "restock-item[2]"}

func TestAReturnIsTakenBackAndRefunded(t *testing.T) {
	p := play.New(t, returns.Saga, threeItems, obeyed())
	p.Run()
	p.Want(saga.Completed, "", append(forward, "refund-payment", "shelve-stock", "complete-return")...)
	var result shop.ReturnResult
	if err := json.Unmarshal(p.Saga.Result, &result); err != nil {
		t.Fatal(err)
	}
	if want := (shop.ReturnResult{ReturnID: play.ID, OrderID: order, Refund: 13200, Currency: "EUR", OrderStatus: "returned"}); result != want {
		t.Errorf("result %+v, want %+v", result, want)
	}
	var refund shop.RefundPaymentRequest
	if err := json.Unmarshal(p.Step("refund-payment").Do.Request, &refund); err != nil {
		t.Fatal(err)
	}
	if want := (shop.RefundPaymentRequest{RefundID: play.ID, OrderID: order, Amount: 13200, Currency: "EUR"}); refund != want {
		t.Errorf("refund %+v, want %+v", refund, want)
	}
	var tea shop.RestockItemRequest
	if err := json.Unmarshal(p.Step("restock-item[0]").Do.Request, &tea); err != nil || tea.Quantity != 2 {
		t.Errorf("the two lines of tea were not added up: %+v, error %v", tea, err)
	}
}

func TestWhatIsGivenUpWhenAReturnFails(t *testing.T) {
	for name, test := range map[string]struct {
		step   string
		answer play.Answer
		status saga.Status
		code   events.Code
		sent   []string
	}{
		"the order does not allow for it": {
			"open-return", play.Answer{Reject: shop.AlreadyReturned}, saga.Compensated, shop.AlreadyReturned, []string{"open-return"},
		},
		"the second item is not taken back": {
			"restock-item[1]", play.Answer{Reject: shop.NotReturnable}, saga.Compensated, shop.NotReturnable, // with the third in doubt
			append(forward, "-restock-item[2]", "-restock-item[0]", "-open-return"),
		},
		"the money cannot be paid back": {
			"refund-payment",
			play.Answer{Reject: shop.RefundFailed},
			saga.Compensated, shop.RefundFailed,
			append(forward, "refund-payment", "-restock-item[2]", "-restock-item[1]", "-restock-item[0]", "-open-return"),
		},
		"the goods cannot be shelved": {
			"shelve-stock", play.Answer{Reject: "no"}, saga.Stuck, "no", append(forward, "refund-payment", "shelve-stock", "complete-return"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := play.New(t, returns.Saga, threeItems, with(obeyed(), test.step, test.answer))
			p.Run()
			p.Want(test.status, test.code, test.sent...)
			for _, r := range p.Saga.Steps {
				if p.Saga.Status.Final() && r.Status == saga.StepRunning {
					t.Errorf("the saga has ended, and %s is %s", r.Name, r.Status)
				}
			}
		})
	}
}

// A refund that is not answered may have been paid: it is asked for again, and never
// given up.
func TestARefundInDoubtIsRepeated(t *testing.T) {
	p := play.New(t, returns.Saga, threeItems, with(obeyed(), "refund-payment", play.Answer{Silent: true}))
	p.Run()
	p.Pass(time.Minute)
	p.Want(saga.Stuck, "no_answer", append(forward, "refund-payment")...)
	delete(p.Answers, "refund-payment")
	p.Pass(5 * time.Minute)
	p.Run()
	p.Want(saga.Completed, "", append(forward, "refund-payment", "shelve-stock", "complete-return")...)
}

func TestNoMoreThanFourItemsAreTakenBackAtATime(t *testing.T) {
	request := shop.ReturnRequest{OrderID: order, Reason: "all of it"}
	for _, sku := range []string{"A", "B", "C", "D", "E", "F"} {
		request.Items = append(request.Items, shop.Item{SKU: sku, Quantity: 1})
	}
	p := play.New(t, returns.Saga, request, with(obeyed(), "restock-item", play.Answer{Silent: true}))
	for i := range 3 {
		delete(p.Answers, "restock-item["+string(rune('0'+i))+"]")
	}
	p.Run()
	p.Want(saga.Running, "", "open-return", "restock-item[0]", "restock-item[1]", "restock-item[2]", "restock-item[3]")
}

func TestDiagram(t *testing.T) {
	program, err := returns.Saga.Compile()
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
		t.Errorf("the diagram is another one (%v); run: go test ./returns -update", err)
	}
}
