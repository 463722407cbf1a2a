// Command mutate breaks the saga engine, one line at a time, and shows that every
// break is found: what sagas decide by the simulation, within its seeds, and what
// operators order by the model that runs on a real database, within its checks. A
// break is an overlay of the compiler: no file is changed, and the real code has no
// switches for it.
//
//	go run ./tests/sim/mutate            all of them
//	go run ./tests/sim/mutate forward    those with that in their name
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// seeds is within how many a mutant must be found by the simulation, checks by the
// model.
const seeds, checks = 1500, 150

// Bounds on the test of one mutant. In the simulation some make a run without end.
const simulationMax, modelMax = 75 * time.Second, 3 * time.Minute

// mutant is a line of platform/saga that is written wrongly.
type mutant struct {
	name, file, old, new string
}

// simulated are found by the simulation.
var simulated = []mutant{
	{"forward-order undo", "backward.go", "for _, child := range slices.Backward(n.children) {\n\t\t\tif !d.unwind(child, at) {", "for _, child := range n.children {\n\t\t\tif !d.unwind(child, at) {"},
	{"rescue ignores state: a reply counts whatever its step is doing", "answer.go", "if !waiting || record.Do.Request", "if waiting && false || record.Do.Request"},
	{"timer lost: nothing is due for a compensation", "instance.go", "waiting && undo == in.Backward {\n\t\t\tdue", "waiting && !undo {\n\t\t\tdue"},
	{"undo not deduplicated: each attempt is a new command", "instance.go", `"undo", r.Round, r.UndoRound)`, `"undo", r.Round, r.Undo.Attempts)`},
	{"each attempt of a step is a new command", "instance.go", `"do", r.Round)`, `"do", r.Round+r.Do.Attempts)`},
	{"a step in doubt is not undone", "backward.go", "case StepDone, StepTimedOut, StepRunning:", "case StepDone:"},
	{"an undo does not wait for the later one", "backward.go", "if d.record(path).Status == StepCompensating {\n\t\t\treturn false", "if d.record(path).Status == StepCompensating {\n\t\t\treturn true"},
	{"an undo that is under way counts as done", "backward.go", "case StepCompensating:\n\t\treturn false", "case StepCompensating:\n\t\treturn true"},
	{"the pivot does not decide", "forward.go", "d.Pivoted = d.Pivoted || n.pivot", "d.Pivoted = d.Pivoted && n.pivot"},
	{"a rejection after the pivot compensates", "answer.go", "if d.Pivoted && !n.pivot {", "if d.Pivoted && n.pivot {"},
	{"a rejected pivot stays decided", "answer.go", "if n.pivot {\n\t\td.Pivoted = false", "if n.pivot {\n\t\td.Pivoted = true"},
	{"a saga is cancelled past its pivot", "order.go", "if d.Pivoted {\n\t\treturn refuse(\"past_pivot\"", "if d.Paused {\n\t\treturn refuse(\"past_pivot\""},
	{"the deadline counts past the pivot", "tick.go", "if !d.Backward && !d.Pivoted && !d.Deadline", "if !d.Backward && !d.Deadline"},
	{"commands are repeated while the saga compensates", "tick.go", "if !waiting || d.Backward && !undo {", "if !waiting || d.Paused && !undo {"},
	{"an order is taken in and nothing follows", "tick.go", "if d.Status == \"\" || d.Status.Final() || d.Paused {", "if d.Status != Running || d.Paused {"},
	{"no tombstone for a child saga", "answer.go", "d.applied = true\n\t\td.found(input.ID", "d.applied = false\n\t\td.found(input.ID"},
	{"a completed child is not recalled", "answer.go", "if d.Status == Completed {\n\t\t\td.Status, d.Result = Running, nil", "if d.Status == Completed {\n\t\t\td.Result = nil"},
	{"what handlers of a rejection did is not undone", "backward.go", "round >= 0; round--", "round > 0; round--"},
	{"the trouble of one step hides that of another", "decide.go", "d.Trouble = or(d.Trouble, d.trouble())", "d.trouble()"},
	{"UndoAfter waits for the other items", "backward.go", "|| !its.within(at, first.depth)", "|| first.depth < 0 && its == at"},
	{"UndoInTurn looks at the other items", "backward.go", "|| !its.within(at, n.depth)", "|| n.depth < 0 && its == at"},
	{"a command waits for its undo, and is due", "instance.go", "waiting && undo == in.Backward {\n\t\t\tdue", "waiting && (undo || !undo) {\n\t\t\tdue"},
	{"a local step's time ends between attempts, unseen", "tick.go", "if d.now.Before(call.RetryAt) && d.unanswered(n, call) {", "if d.now.After(call.RetryAt) && d.unanswered(n, call) {"},
	{"a local step that never ran is in doubt", "backward.go", "return n.kind != kindLocal && (", "return n.kind != kindLock && ("},
	{"a signal is taken twice", "answer.go", "if d.Steps[i].Kind == string(kindAwait) && json", "if d.Steps[i].Kind == string(kindStep) && json"},
	{"the history forgets the order of steps", "history.go", "n.number(tagStepDone, before.Done, after.Done)", "n.number(tagStepDone, before.Done, before.Done)"},
	{"the history forgets retries", "history.go", "if before.Round != after.Round || before.UndoRound != after.UndoRound {", "if before.UndoRound != after.UndoRound {"},
	{"the time of a saga goes back", "history.go", "w.time(tagUpdatedAt, before.UpdatedAt, after.UpdatedAt)", "w.time(tagUpdatedAt, before.CreatedAt, after.CreatedAt)"},
	{"Decide changes the steps that it is given", "decide.go", "d.Steps = slices.Clone(in.Steps)", "_ = slices.Clone(in.Steps)"},
}

// ordered are found by the model.
var ordered = []mutant{
	{"an order ignores the revision that was seen", "operate.go", "if when.Revision > 0 && saga.revision != when.Revision {", "if when.Revision > saga.revision {"},
	{"an order is written whatever the saga has become", "store.go", "where saga.id = c.id and saga.revision = c.before\n", "where saga.id = c.id and saga.revision >= c.before\n"},
	{"an order that lost a race is given up", "operate.go", "case !isConflict(err):", "case isConflict(err), !isConflict(err):"},
	{"an order whose answer was lost is given again", "operate.go", "if err == nil && len(doubts) > 0 {", "if err == nil && len(doubts) > 9 {"},
	{"an order whose answer was lost counts as given", "operate.go", "if found {\n\t\t\tdoubts", "if found || !found {\n\t\t\tdoubts"},
	{"a dry run is written", "operate.go", "if when.DryRun {\n\t\t\treturn told, nil", "if when.DryRun && told.Revision == 0 {\n\t\t\treturn told, nil"},
	{"the history does not hold who gave the order", "transition.go", `Cause{Kind: "order", Event: event.ID, Order: input.Order}`, `Cause{Kind: "order", Event: event.ID}`},
	{"the history does not hold who told the signal", "transition.go", "Order: input.Signal.Order}", "Order: nil}"},
	{"nobody needs to say who orders and why", "order.go", `case o.Verb != Cancel && (o.By == "" || o.Reason == ""):`, `case o.Verb == "" && (o.By == "" || o.Reason == ""):`},
	{"a refused order is written all the same", "order.go", "d.applied = err == nil\n", "d.applied = true\n"},
	{"a step that was skipped is not undone", "order.go", "record.Do.settled(nil)\n\t}\n\td.done(record)", "record.Do.settled(nil)\n\t}\n\tif d.done(record); o.Verb == Skip {\n\t\trecord.Status = StepCancelled\n\t}"},
	{"an undo that is skipped counts as if the step stood", "order.go", "} else if undo {\n\t\td.undone(record, nil)", "} else if undo {\n\t\trecord.Status = StepDone"},
	{"a retry of one step repeats all", "order.go", `|| step != "" && record.Name != step {`, `|| step == "-" {`},
	{"a retry of a refused step keeps its command", "order.go", "case refused:\n\t\t\t\trecord.Round++", "case refused:\n\t\t\t\trecord.Round += 0"},
	{"a retry of a refused undo keeps its command", "order.go", "record.UndoRound++", "record.UndoRound += 0"},
	{"time runs out on a paused saga", "tick.go", "|| d.Paused {", "|| d.Paused && d.Backward {"},
	{"a saga that is resumed stays stuck", "order.go", "d.Paused, d.Trouble = false, nil // what", "d.Paused = false // what"},
	{"a saga that is resumed does not ask again", "order.go", `d.refresh("")`, "_ = d.refresh"},
	{"a cancelled saga stays paused", "order.go", "d.Paused = false\n\td.turn(", "d.turn("},
	{"an abandoned saga keeps its timer", "store.go", "if ch.before.live {\n\t\t\t\tunset", "if ch.before.live && in.Status != Abandoned {\n\t\t\t\tunset"},
	{"an abandoned saga tells nobody", "transition.go", "if next.Status != from && (next.Status.Final() || next.Status == Stuck) {", "if next.Status != from && (next.Status.Final() && next.Status != Abandoned || next.Status == Stuck) {"},
	{"a preview leaves out what a paused saga has not begun to undo", "operate_preview.go", "d.settle()\n", ""},
	{"a repeated undo is not in doubt any more", "operate.go", "r.Status == StepTimedOut || r.Status == StepCompensating && r.Done == 0", "r.Status == StepTimedOut"},
}

func main() {
	if err := run(strings.Join(os.Args[1:], " ")); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(want string) error {
	folder, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	survived := 0
	for i, m := range slices.Concat(simulated, ordered) {
		if !strings.Contains(m.name, want) {
			continue
		}
		begin := time.Now()
		test := simulation
		if i >= len(simulated) {
			test = model
		}
		by, err := m.play(filepath.Join(folder, strconv.Itoa(i)), test)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		verdict := "found by " + by
		if by == "" {
			verdict = "SURVIVED"
			survived++
		}
		fmt.Printf("%-65s %s (%s)\n", m.name, verdict, time.Since(begin).Round(100*time.Millisecond))
	}
	if survived > 0 {
		return fmt.Errorf("%d mutants survived", survived)
	}
	return nil
}

// The tests that find mutants, as arguments of go test.
var (
	simulation = []string{"-run", "^(TestShop|TestShopUnwinds|TestFlows)$", "./tests/sim", "-sagatest.seeds", strconv.Itoa(seeds)}
	model      = []string{"-run", "^TestEngineFollowsTheModel$", "./platform/saga", "-rapid.nofailfile", "-rapid.checks", strconv.Itoa(checks), "-rapid.shrinktime", "0s"}
)

var foundBy = regexp.MustCompile(`(?m)(flow \d+: )?seed (\d+): [^\n]{0,90}|panic: [^\n]{0,90}|model_test\.go:\d+: [^\n[]{0,120}|with (silence|a rejection) at [^\n]{0,90}`)

// play runs the test on the mutant and tells what found it, or "".
func (m mutant) play(folder string, test []string) (by string, err error) {
	path, err := filepath.Abs(filepath.Join("platform", "saga", m.file))
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("run it in the root folder of the repository: %w", err)
	}
	if n := bytes.Count(source, []byte(m.old)); n != 1 {
		return "", fmt.Errorf("%s has %d places that read %q, not one: tell the mutant where it is now", m.file, n, m.old)
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", err
	}
	broken := filepath.Join(folder, m.file)
	if err := os.WriteFile(broken, bytes.Replace(source, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	simulates, limit := slices.Contains(test, "./tests/sim"), modelMax
	if simulates {
		limit = simulationMax
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	arguments := append([]string{"test", "-overlay", list, "-count=1", "-failfast"}, test...)
	out, err := exec.CommandContext(ctx, "go", arguments...).CombinedOutput()
	switch {
	case err == nil:
		return "", nil
	case bytes.Contains(out, []byte("[build failed]")), bytes.Contains(out, []byte("[setup failed]")):
		return "", fmt.Errorf("it does not compile:\n%s", out)
	case ctx.Err() != nil:
		if simulates {
			return "a run without end", nil
		}
		return "", fmt.Errorf("the test did not end within %s", limit)
	}
	if by := foundBy.Find(out); by != nil {
		return string(by), nil
	}
	return "", fmt.Errorf("the test failed otherwise:\n%s", out)
}
