package checkout_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/checkout"
)

const sagaID = "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f"

var begin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// replies are what participants say when nothing is in the way.
var replies = map[string]any{
	"create-order": shop.OrderCreated{OrderID: sagaID},
	"reserve-stock": shop.StockReserved{
		Lines: []shop.Line{{SKU: "MUG-001", Quantity: 1, UnitPrice: 1200}, {SKU: "TEA-001", Quantity: 2, UnitPrice: 450}},
		Total: 2100,
	},
	"authorize-payment": shop.PaymentAuthorized{AuthorizationID: "auth-1"},
	"capture-payment":   shop.PaymentCaptured{CapturedAmount: 2100},
}

// play is one checkout on its way through Decide, written down as a trace.
type play struct {
	t       *testing.T
	program *saga.Program
	saga    saga.Instance
	now     time.Time
	command saga.Effect // the one sent last, whose reply is awaited
	undone  []string    // steps whose compensation was sent, in order
	twice   bool        // every reply comes twice
	trace   strings.Builder
}

func newPlay(t *testing.T) *play {
	t.Helper()
	program, err := checkout.Saga.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return &play{t: t, program: program, now: begin}
}

func (p *play) start() {
	request, err := json.Marshal(shop.CheckoutRequest{
		Customer: "ada", Currency: "EUR",
		Items:   []shop.Item{{SKU: "TEA-001", Quantity: 2}, {SKU: "MUG-001", Quantity: 1}},
		Payment: shop.Payment{Token: "tok_ok"},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.decide(saga.Input{Start: &saga.StartInput{ID: sagaID, Request: request}}, "start %s", request)
}

// reply gives the awaited command a positive reply.
func (p *play) reply() {
	step, _ := p.awaited()
	var data []byte
	if payload, ok := replies[step]; ok && p.command.Undoes == "" {
		var err error
		if data, err = json.Marshal(payload); err != nil {
			p.t.Fatal(err)
		}
	}
	p.answer(saga.ReplyInput{CommandID: p.command.ID, Data: data}, "reply %s", data)
}

func (p *play) reject(code events.Code) {
	p.answer(saga.ReplyInput{
		CommandID: p.command.ID, Rejection: &events.Rejection{Code: code, Message: "no"},
	}, "rejection %s", code)
}

func (p *play) answer(input saga.ReplyInput, format string, args ...any) {
	p.decide(saga.Input{Reply: &input}, format, args...)
	if !p.twice {
		return
	}
	again, effects, _ := p.program.Decide(p.saga, saga.Input{Reply: &input}, p.now)
	if len(effects) > 0 || !same(p.t, again, p.saga) {
		p.t.Errorf("the second copy of the reply of %s changed the saga or sent %d commands", p.command.Type, len(effects))
	}
}

// wait lets time pass until the saga must be looked at.
func (p *play) wait() {
	_, record := p.awaited()
	call := record.Do
	if record.Status == saga.StepCompensating {
		call = record.Undo
	}
	due := call.RetryAt
	if p.saga.Status != saga.Stuck && call.Deadline.Before(due) {
		due = call.Deadline
	}
	if _, _, verdict := p.program.Decide(p.saga, saga.Input{Tick: true}, due.Add(-time.Nanosecond)); verdict != saga.Ignored {
		p.t.Errorf("a tick before anything is due was %s", verdict)
	}
	p.now = due
	p.decide(saga.Input{Tick: true}, "tick")
}

func (p *play) decide(input saga.Input, format string, args ...any) {
	p.t.Helper()
	before, err := json.Marshal(p.saga)
	if err != nil {
		p.t.Fatal(err)
	}
	out, effects, verdict := p.program.Decide(p.saga, input, p.now)
	if after, _ := json.Marshal(p.saga); string(after) != string(before) {
		p.t.Errorf("Decide changed its argument:\n%s\n%s", before, after)
	}
	fmt.Fprintf(&p.trace, "%5s %s", p.now.Sub(begin), strings.TrimRight(fmt.Sprintf(format, args...), " "))
	if verdict != saga.Applied {
		fmt.Fprintf(&p.trace, " (%s)", verdict)
	}
	p.trace.WriteByte('\n')
	for _, effect := range effects {
		p.command = effect
		step, _ := p.awaitedIn(out)
		arrow := "->"
		if effect.Undoes != "" {
			arrow = "<-"
			if effect.Attempt == 1 {
				p.undone = append(p.undone, step)
			}
		}
		fmt.Fprintf(&p.trace, "      %s %s #%d %s %s\n", arrow, step, effect.Attempt, effect.Type, effect.Data)
	}
	if out.Status != p.saga.Status {
		fmt.Fprintf(&p.trace, "      == %s", out.Status)
		why := out.Failure
		if out.Status == saga.Stuck {
			why = out.Trouble
		}
		if why != nil {
			fmt.Fprintf(&p.trace, " because of %s at %s", why.Code, why.Step)
		}
		if out.Result != nil {
			fmt.Fprintf(&p.trace, " %s", out.Result)
		}
		p.trace.WriteByte('\n')
	}
	p.saga = out
}

// awaited returns the step that waits for a reply.
func (p *play) awaited() (name string, record saga.StepRecord) { return p.awaitedIn(p.saga) }

func (p *play) awaitedIn(in saga.Instance) (name string, record saga.StepRecord) {
	for _, record := range in.Steps {
		if p.command.ID == saga.DoID(in.ID, record.Name) || p.command.ID == saga.UndoID(in.ID, record.Name) {
			return record.Name, record
		}
	}
	p.t.Fatalf("command %s belongs to no step", p.command.ID)
	return "", saga.StepRecord{}
}

func same(t *testing.T, a, b saga.Instance) bool {
	t.Helper()
	left, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	right, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(left) == string(right)
}
