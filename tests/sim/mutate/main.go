// Command mutate breaks the saga engine, one line at a time, and shows that the
// simulation finds every break within its seeds. A break is an overlay of the
// compiler: no file is changed, and the real code has no switches for it.
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
	"strconv"
	"strings"
	"time"
)

// seeds is within how many a mutant must be found.
const seeds = 1500

// mutant is a line of platform/saga that is written wrongly.
type mutant struct {
	name, file, old, new string
}

var mutants = []mutant{
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
	for i, m := range mutants {
		if !strings.Contains(m.name, want) {
			continue
		}
		begin := time.Now()
		by, err := m.play(filepath.Join(folder, strconv.Itoa(i)))
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
		return fmt.Errorf("%d mutants survived %d seeds", survived, seeds)
	}
	return nil
}

var foundBy = regexp.MustCompile(`(?m)(flow \d+: )?seed (\d+): [^\n]{0,90}|panic: [^\n]{0,90}|with (silence|a rejection) at [^\n]{0,90}`)

// play runs the simulation on the mutant and tells what found it, or "".
func (m mutant) play(folder string) (by string, err error) {
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
	ctx, cancel := context.WithTimeout(context.Background(), 75*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-overlay", list, "-count=1", "-failfast", "-run", "^(TestShop|TestShopUnwinds|TestFlows)$",
		"./tests/sim", "-sagatest.seeds", strconv.Itoa(seeds)).CombinedOutput()
	switch {
	case err == nil:
		return "", nil
	case bytes.Contains(out, []byte("[build failed]")), bytes.Contains(out, []byte("[setup failed]")):
		return "", fmt.Errorf("it does not compile:\n%s", out)
	case ctx.Err() != nil:
		return "a run without end", nil
	}
	if by := foundBy.Find(out); by != nil {
		return string(by), nil
	}
	return "", fmt.Errorf("the test failed otherwise:\n%s", out)
}
