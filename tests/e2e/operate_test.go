package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// desk is a dev process with an operator at it. Its sagas end as no saga of the
// shared process may.
type desk struct {
	t        *testing.T
	shop     product.Shop
	operator product.Operator
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	log := &buffer{}
	dev, err := product.Start(t.Context(), binary, log, nil, "dev", "--json", "--data-dir", filepath.Join(t.TempDir(), "data"),
		"--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() {
		if err := dev.Stop(); err != nil {
			t.Error(err)
		}
		// A payment that was skipped is captured in vain, which is an error in the log.
		if err := product.CheckLog(log.String(), product.MarkPanic, product.MarkRace); err != nil || t.Failed() {
			t.Errorf("%v\n%s", err, log)
		}
	})
	return &desk{t, product.NewShop(dev.HTTP), product.NewOperator(dev.Admin)}
}

// place places an order and waits until its saga waits at that step.
func (d *desk) place(token, step string) (id string) {
	d.t.Helper()
	answer, err := d.shop.Place(d.t.Context(), product.NewCheckout("ada", "TEA-001", 2, token).Body())
	if err != nil {
		d.t.Fatal(err)
	}
	id = accepted(d.t, answer)
	d.until(id, step+" is running", func(s product.Saga) bool { return stepOf(s, step).Status == "running" })
	return id
}

// until waits until a saga is as it should be.
func (d *desk) until(id, what string, done func(product.Saga) bool) (s product.Saga) {
	d.t.Helper()
	err := product.Await(d.t.Context(), endTimeout, func() (err error) {
		if s, err = d.operator.Saga(d.t.Context(), id); err == nil && !done(s) {
			err = fmt.Errorf("saga %s is %s with %+v, not yet: %s", id, s.Status, s.Steps, what)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (d *desk) ends(id, status string) product.Saga {
	d.t.Helper()
	return d.until(id, status, func(s product.Saga) bool { return s.Status == status })
}

func stepOf(s product.Saga, name string) product.SagaStep {
	for _, step := range s.Steps {
		if step.Name == name {
			return step
		}
	}
	return product.SagaStep{}
}

// saga runs "countermand saga" with those words, and checks its exit code.
func (d *desk) saga(code int, words ...string) product.Result {
	d.t.Helper()
	return d.sagaIn(code, nil, words...)
}

func (d *desk) sagaIn(code int, env []string, words ...string) product.Result {
	d.t.Helper()
	env = append(env, "COUNTERMAND_ADMIN_URL="+d.operator.Base)
	result, err := product.Run(d.t.Context(), binary, env, append([]string{"saga"}, words...)...)
	if err != nil {
		d.t.Fatal(err)
	}
	if result.Code != code {
		d.t.Fatalf("saga %s ended %+v, want code %d", strings.Join(words, " "), result, code)
	}
	return result
}

// told is the answer to an order, as -o json prints it.
type told struct {
	DryRun bool `json:"dry_run"`
	Saga   product.Saga
	Sends  []planned
}

type planned struct {
	Step    string
	Type    string
	ID      string
	Undo    bool
	InDoubt bool `json:"in_doubt"`
	Request json.RawMessage
}

func (d *desk) tell(words ...string) (answer told) {
	d.t.Helper()
	result := d.saga(0, append(words, "--reason", "a test", "--by", "eve", "-o", "json")...)
	if err := json.Unmarshal([]byte(result.Stdout), &answer); err != nil {
		d.t.Fatalf("%v in %s", err, result.Stdout)
	}
	return answer
}

func TestAnOperatorTellsSagasWhatToDo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	in := func(name string, run func(d *desk)) {
		t.Run(name, func(t *testing.T) { run(&desk{t, d.shop, d.operator}) })
	}

	in("many at once, as many as were counted", func(d *desk) {
		ids := []string{d.place("tok_never", "authorize-payment"), d.place("tok_never", "authorize-payment"), d.place("tok_never", "authorize-payment")}
		selection := []string{"--status", "running", "--step", "authorize-payment", "--attribute", "none=x"}
		d.saga(5, append([]string{"bulk", "cancel", "--reason", "r", "--expect", "3"}, selection...)...) // there is no such attribute
		selection = selection[:4]
		dry := d.saga(0, append([]string{"bulk", "cancel", "--reason", "r", "--dry-run", "-o", "json"}, selection...)...)
		if n := strings.Count(dry.Stdout, `"done"`); n != 3 || !strings.Contains(dry.Stderr, "3 of 3 sagas would obey") {
			d.t.Errorf("the dry run ended %+v", dry)
		}
		if result := d.saga(5, append([]string{"bulk", "cancel", "--reason", "r", "--expect", "2"}, selection...)...); !strings.Contains(result.Stderr, "count_differs") {
			d.t.Errorf("it ended %+v", result)
		}
		d.saga(2, append([]string{"bulk", "cancel", "--reason", "r"}, selection...)...) // nobody is there to confirm
		d.saga(0, append([]string{"bulk", "cancel", "--reason", "r", "--expect", "3", "-o", "jsonl"}, selection...)...)
		for _, id := range ids {
			if s := d.ends(id, "compensated"); s.Failure == nil || s.Failure.Code != "cancelled" {
				d.t.Errorf("saga %s failed with %+v", id, s.Failure)
			}
		}
	})

	in("a paused checkout sends nothing, and completes when it is resumed", func(d *desk) {
		id := d.place("tok_slow", "authorize-payment")
		d.tell("pause", id)
		d.until(id, "authorized", func(s product.Saga) bool { return stepOf(s, "authorize-payment").Status == "done" })
		time.Sleep(time.Second) // longer than anything in dev takes
		s := d.until(id, "running", func(product.Saga) bool { return true })
		if step := stepOf(s, "capture-payment"); s.Status != "running" || step.Status != "pending" || step.Do.Attempts != 0 {
			d.t.Errorf("the paused saga is %s and its next step %+v", s.Status, step)
		}
		if charge, _, err := d.shop.Charge(d.t.Context(), id); err != nil || charge.Status != "authorized" {
			d.t.Errorf("the payment is %+v: %v", charge, err)
		}
		if tree := d.saga(0, "get", id).Stdout; !strings.Contains(tree, "running, paused") {
			d.t.Errorf("it is shown as\n%s", tree)
		}
		d.tell("resume", id)
		d.ends(id, "completed")
	})

	in("a silent participant is answered for", func(d *desk) {
		id := d.place("tok_never", "authorize-payment")
		answer := d.tell("complete", id, "--step", "authorize-payment", "--data", `{"authorization_id":"by phone"}`)
		if len(answer.Sends) != 1 || answer.Sends[0].Step != "capture-payment" {
			d.t.Errorf("it sends %+v", answer.Sends)
		}
		d.tell("complete", id, "--step", "capture-payment", "--data", `{"captured_amount":900}`)
		s := d.ends(id, "completed")
		if reply := string(stepOf(s, "authorize-payment").Do.Reply); reply != `{"authorization_id":"by phone"}` {
			d.t.Errorf("the reply of the step is %s", reply)
		}
	})

	in("a step is skipped", func(d *desk) {
		id := d.place("tok_never", "authorize-payment")
		d.tell("skip", id, "--step", "authorize-payment")
		d.tell("skip", id, "--step", "capture-payment")
		d.ends(id, "completed")
	})

	in("what is previewed is what is sent", func(d *desk) {
		id := d.place("tok_never", "authorize-payment")
		var preview struct {
			Revision int64
			Ends     string
			Sends    []planned
		}
		if err := json.Unmarshal([]byte(d.saga(0, "preview", id, "-o", "json").Stdout), &preview); err != nil {
			d.t.Fatal(err)
		}
		if dry := d.tell("compensate", id, "--dry-run"); !dry.DryRun || len(dry.Sends) != 1 || dry.Sends[0].ID != preview.Sends[0].ID {
			d.t.Errorf("the dry run tells %+v", dry)
		}
		d.tell("compensate", id)
		s := d.ends(id, "compensated")
		var sent []product.SagaStep
		for _, step := range s.Steps {
			if step.Undo.Attempts > 0 {
				sent = append(sent, step)
			}
		}
		slices.SortStableFunc(sent, func(a, b product.SagaStep) int { return a.Undo.SentAt.Compare(b.Undo.SentAt) })
		if len(sent) != 3 || len(preview.Sends) != 3 || preview.Ends != "compensated" {
			d.t.Fatalf("sent %+v, the preview was %+v", sent, preview)
		}
		for i, p := range preview.Sends {
			if p.Step != sent[i].Name || !slices.Equal(compact(d.t, p.Request), compact(d.t, sent[i].Undo.Request)) || p.InDoubt != (p.Step == "authorize-payment") {
				d.t.Errorf("place %d: sent %s %s, the preview was %+v", i+1, sent[i].Name, sent[i].Undo.Request, p)
			}
		}
	})

	in("a saga is cancelled, and the history tells by whom", func(d *desk) {
		id := d.place("tok_never", "authorize-payment")
		d.tell("retry", id)
		d.tell("cancel", id)
		d.ends(id, "compensated")
		if history := d.saga(0, "history", id).Stdout; !strings.Contains(history, "retry by eve: a test") || !strings.Contains(history, "cancel by eve: a test") {
			d.t.Errorf("the history is\n%s", history)
		}
		if result := d.saga(5, "cancel", id, "--reason", "again"); !strings.Contains(result.Stderr, "saga_ended") {
			d.t.Errorf("a second time ended %+v", result)
		}
		var export struct {
			Saga product.Saga
			Log  []string
		}
		if err := json.Unmarshal([]byte(d.saga(0, "export", id).Stdout), &export); err != nil || export.Saga.ID != id || len(export.Log) < 5 {
			d.t.Errorf("the export is %+v: %v", export, err)
		}
	})

	in("an abandoned saga ends as it stands", func(d *desk) {
		id := d.place("tok_never", "authorize-payment")
		d.tell("abandon", id)
		s := d.ends(id, "abandoned")
		if stepOf(s, "create-order").Status != "done" {
			d.t.Errorf("its steps are %+v", s.Steps)
		}
		if order, found, err := d.shop.Order(d.t.Context(), id); err != nil || !found || order.Status == "cancelled" {
			d.t.Errorf("order %+v, %v: it must be left as it was", order, err)
		}
	})

	in("a state is edited in the operator's editor", func(d *desk) {
		id := d.place("tok_slow", "authorize-payment")
		d.tell("pause", id)
		d.sagaIn(0, []string{"EDITOR=sed -i s/ada/grace/"}, "edit", id, "--reason", "she has another name")
		if s := d.until(id, "edited", func(product.Saga) bool { return true }); s.State.Customer != "grace" {
			d.t.Errorf("the state is %+v", s.State)
		}
		if result := d.sagaIn(1, []string{"EDITOR=true"}, "edit", id, "--reason", "r"); !strings.Contains(result.Stderr, "left as it is") {
			d.t.Errorf("no change ended %+v", result)
		}
		d.saga(2, "edit", id, "--reason", "r", "--data", `{"items":"many"}`)
		d.tell("resume", id, "--watch=false")
		d.ends(id, "completed")
	})

	in("of two operators one is told that the saga has moved", func(d *desk) {
		id := d.place("tok_never", "authorize-payment")
		s, err := d.operator.Saga(d.t.Context(), id)
		if err != nil {
			d.t.Fatal(err)
		}
		seen := strconv.FormatInt(s.Revision, 10)
		d.saga(0, "pause", id, "--revision", seen, "--reason", "first")
		if result := d.saga(5, "abandon", id, "--revision", seen, "--reason", "second"); !strings.Contains(result.Stderr, "revision_moved") {
			d.t.Errorf("it ended %+v", result)
		}
		answer, err := d.operator.Do(d.t.Context(), http.MethodPost, "/admin/v1/sagas/"+id+":abandon", `{"by":"eve","reason":"r"}`,
			"Content-Type: application/json", `If-Match: "`+seen+`"`)
		if err != nil || answer.Status != http.StatusPreconditionFailed {
			d.t.Errorf("the API answered %s: %v", answer, err)
		}
		d.tell("cancel", id)
		d.ends(id, "compensated")
	})

	in("a person's decision is told in her place", func(d *desk) {
		answer, err := d.shop.Do(d.t.Context(), http.MethodPost, "/v1/reviews", review("MUG-001", 84, "tok_ok", ""), "Content-Type: application/json")
		if err != nil {
			d.t.Fatal(err)
		}
		id := accepted(d.t, answer)
		waiting(d.t, d.shop, d.operator, id)
		if tree := d.saga(0, "get", id).Stdout; !strings.Contains(tree, "▶ decision  running") {
			d.t.Errorf("the operator sees\n%s", tree)
		}
		d.saga(2, "signal", id, "--step", "decision", "--data", `{"approved":"perhaps"}`, "--reason", "r")
		d.tell("signal", id, "--step", "decision", "--data", approve)
		d.ends(id, "completed")
	})

	in("a signal that nobody awaits is refused", func(d *desk) {
		id := d.place("tok_slow", "authorize-payment")
		if result := d.saga(2, "signal", id, "--step", "shop.review.decided.v1", "--reason", "r"); !strings.Contains(result.Stderr, "signal_not_awaited") {
			d.t.Errorf("it ended %+v", result)
		}
		d.saga(0, "watch", id)
	})
}

// compact returns JSON without white space.
func compact(t *testing.T, raw json.RawMessage) []byte {
	t.Helper()
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDefinitionsAreShown(t *testing.T) {
	t.Parallel()
	for begins, words := range map[string][]string{
		"DEFINITION": {"def", "list"}, "[": {"def", "list", "-o", "json"}, "flowchart LR": {"def", "graph", "checkout"},
		"<svg ": {"def", "graph", "checkout", "-o", "svg"}, "{": {"def", "graph", "checkout", "-o", "json"},
	} {
		if result := countermand(t, words...); result.Code != 0 || !strings.HasPrefix(result.Stdout, begins) {
			t.Errorf("%v ended %+v", words, result)
		}
	}
	if result := countermand(t, "def", "lint"); result.Code != 0 || result.Stdout != "" || !strings.Contains(result.Stderr, "sound") {
		t.Errorf("def lint ended %+v", result)
	}
	svg := ask(t, "/admin/v1/definitions/checkout/graph?format=svg")
	if svg.Status != http.StatusOK || svg.Header.Get("Content-Type") != "image/svg+xml" || string(svg.Body) != countermand(t, "def", "graph", "checkout", "-o", "svg").Stdout {
		t.Errorf("the admin API draws %s", svg)
	}
}

func TestTheShellCompletesIds(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("shell", "TEA-001", 1, "tok_ok")))
	finished(t, id, "completed")
	if result := countermand(t, "__complete", "saga", "get", ""); !strings.Contains(result.Stdout, "checkout@1") {
		t.Errorf("it completes %+v", result)
	}
	if result := countermand(t, "__complete", "saga", "bulk", "re"); !strings.Contains(result.Stdout, "retry\n") || !strings.Contains(result.Stdout, "resume\n") {
		t.Errorf("it completes %+v", result)
	}
}
