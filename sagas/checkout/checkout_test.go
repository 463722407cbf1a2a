package checkout_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/checkout"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// How a participant answers a step. Any other answer is a rejection's code.
const (
	silent = "silent" // never
	late   = "late"   // after the saga has become stuck
)

// TestSaga plays whole checkouts. do and undo say how participants answer the
// commands and compensations that are not simply obeyed.
func TestSaga(t *testing.T) {
	var (
		created    = []string{"create-order"}
		reserved   = []string{"reserve-stock", "create-order"}
		authorized = []string{"authorize-payment", "reserve-stock", "create-order"}
	)
	for name, test := range map[string]struct {
		do, undo map[string]string
		status   saga.Status
		code     events.Code // of the failure, or of the trouble when stuck
		undone   []string
	}{
		"completed": {status: saga.Completed},

		"create-order-rejected":      {do: map[string]string{"create-order": "revoked"}, status: saga.Compensated, code: "revoked"},
		"reserve-stock-rejected":     {do: map[string]string{"reserve-stock": "out_of_stock"}, status: saga.Compensated, code: shop.OutOfStock, undone: created},
		"authorize-payment-rejected": {do: map[string]string{"authorize-payment": "card_declined"}, status: saga.Compensated, code: shop.CardDeclined, undone: reserved},
		"capture-payment-rejected":   {do: map[string]string{"capture-payment": "capture_failed"}, status: saga.Compensated, code: shop.CaptureFailed, undone: authorized},
		"commit-stock-rejected":      {do: map[string]string{"commit-stock": "no"}, status: saga.Stuck, code: "no"},
		"confirm-order-rejected":     {do: map[string]string{"confirm-order": "no"}, status: saga.Stuck, code: "no"},

		"create-order-silent":      {do: map[string]string{"create-order": silent}, status: saga.Compensated, code: "timeout", undone: created},
		"reserve-stock-silent":     {do: map[string]string{"reserve-stock": silent}, status: saga.Compensated, code: "timeout", undone: reserved},
		"authorize-payment-silent": {do: map[string]string{"authorize-payment": silent}, status: saga.Compensated, code: shop.PaymentTimeout, undone: authorized},
		"capture-payment-silent":   {do: map[string]string{"capture-payment": silent}, status: saga.Stuck, code: "no_answer"},

		"capture-payment-late": {do: map[string]string{"capture-payment": late}, status: saga.Completed},
		"commit-stock-late":    {do: map[string]string{"commit-stock": late}, status: saga.Completed},
		"confirm-order-late":   {do: map[string]string{"confirm-order": late}, status: saga.Completed},

		"release-stock-late": {
			do: map[string]string{"authorize-payment": "card_declined"}, undo: map[string]string{"reserve-stock": late},
			status: saga.Compensated, code: shop.CardDeclined, undone: reserved,
		},
		"release-stock-silent": {
			do: map[string]string{"authorize-payment": "card_declined"}, undo: map[string]string{"reserve-stock": silent},
			status: saga.Stuck, code: "no_answer", undone: reserved[:1],
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, twice := range []bool{false, true} {
				p := newPlay(t)
				p.twice = twice
				p.run(test.do, test.undo)
				if p.saga.Status != test.status || code(p.saga) != test.code {
					t.Errorf("ended %s with code %q, want %s with %q", p.saga.Status, code(p.saga), test.status, test.code)
				}
				if !slices.Equal(p.undone, test.undone) {
					t.Errorf("undone %q, want %q", p.undone, test.undone)
				}
				golden(t, name+".trace", p.trace.String()) // the same when every reply comes twice
			}
		})
	}
}

// run answers commands until the saga has ended, or a participant keeps silent
// and the saga has tried again after it got stuck.
func (p *play) run(do, undo map[string]string) {
	p.start()
	for !p.saga.Status.Final() {
		step, record := p.awaited()
		answers := do
		if record.Status == saga.StepCompensating {
			answers = undo
		}
		stuck := p.saga.Status == saga.Stuck
		switch answer := answers[step]; {
		case answer == "", answer == late && stuck:
			p.reply()
		case answer == late:
			p.wait()
		case answer == silent:
			p.wait()
			if stuck {
				return
			}
		case stuck:
			return // the refusal is final
		default:
			p.reject(events.Code(answer))
		}
	}
}

func code(in saga.Instance) events.Code {
	switch {
	case in.Status == saga.Stuck:
		return in.Trouble.Code
	case in.Failure != nil:
		return in.Failure.Code
	}
	return ""
}

// A reply that comes after the step was given up changes nothing: the step is
// being undone, and its compensation is what the saga waits for.
func TestReplyAfterTheTimeout(t *testing.T) {
	p := newPlay(t)
	p.start()
	p.reply() // create-order
	p.reply() // reserve-stock
	abandoned := p.command
	for p.saga.Status == saga.Running {
		p.wait()
	}
	_, effects, verdict := p.program.Decide(p.saga, saga.Input{Reply: &saga.ReplyInput{
		CommandID: abandoned.ID, Data: []byte(`{"authorization_id":"late"}`),
	}}, p.now)
	if verdict != saga.Ignored || len(effects) > 0 {
		t.Errorf("the late reply was %s, with %d commands", verdict, len(effects))
	}
	if p.command.Undoes != abandoned.ID {
		t.Errorf("awaits %s, which undoes %q; want the compensation of %s", p.command.Type, p.command.Undoes, abandoned.ID)
	}
}

// A client is promised the end of a checkout within 30 s when the payment
// service never answers.
func TestSilentPaymentEndsInTime(t *testing.T) {
	p := newPlay(t)
	p.run(map[string]string{"authorize-payment": silent}, nil)
	if took := p.now.Sub(begin); p.saga.Status != saga.Compensated || took > 20*time.Second {
		t.Errorf("%s after %s", p.saga.Status, took)
	}
}

func TestDiagram(t *testing.T) {
	program, err := checkout.Saga.Compile()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "diagram.mmd", program.Mermaid())
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run: go test ./checkout -update", err)
	}
	if got == string(want) {
		return
	}
	have, expected := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(have), len(expected)) {
		switch {
		case i >= len(have):
			t.Fatalf("%s line %d: got the end, want %s", path, i+1, expected[i])
		case i >= len(expected), have[i] != expected[i]:
			t.Fatalf("%s line %d: got %s\nif that is right, run: go test ./checkout -update", path, i+1, have[i])
		}
	}
}
