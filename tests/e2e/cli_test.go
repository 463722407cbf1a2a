package e2e

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// countermand runs a command line against the shared dev process.
func countermand(t *testing.T, args ...string) product.Result {
	t.Helper()
	result, err := product.Run(t.Context(), binary, []string{"COUNTERMAND_ADMIN_URL=" + operator.Base}, args...)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestVersionIsPrinted(t *testing.T) {
	t.Parallel()
	result := countermand(t, "version")
	if result.Code != 0 || strings.TrimSpace(result.Stdout) == "" || strings.Count(result.Stdout, "\n") != 1 {
		t.Errorf("it ended %+v, want one line and code 0", result)
	}
}

func TestSagaListPrintsJSON(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("cli", "TEA-001", 1, "tok_declined")))
	finished(t, id, "compensated")

	result := countermand(t, "saga", "list", "-o", "json", "--status", "compensated", "--definition", "checkout", "--limit", "500")
	var sagas []product.Saga
	if err := json.Unmarshal([]byte(result.Stdout), &sagas); err != nil || result.Code != 0 {
		t.Fatalf("it ended %+v: %v", result, err)
	}
	found := false
	for _, saga := range sagas {
		found = found || saga.ID == id
		if saga.Status != "compensated" {
			t.Errorf("saga %s is %s, want compensated ones only", saga.ID, saga.Status)
		}
	}
	if !found {
		t.Errorf("saga %s is not in the list", id)
	}
	if result := countermand(t, "saga", "list", "-o", "json", "--definition", "nothing"); result.Code != 0 || strings.TrimSpace(result.Stdout) != "[]" {
		t.Errorf("a list of none ended %+v, want [] and code 0", result)
	}
	if result := countermand(t, "saga", "list", "-o", "jsonl", "--limit", "2"); result.Code != 0 || strings.Count(result.Stdout, "\n") > 2 {
		t.Errorf("two lines of JSON ended %+v", result)
	}
	if result := countermand(t, "saga", "list", "--limit", "500"); result.Code != 0 || !strings.Contains(result.Stdout, id) {
		t.Errorf("the table ended %+v, want saga %s in it", result, id)
	}
}

func TestSagaGetPrintsJSON(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("cli", "TEA-001", 1, "tok_ok")))
	finished(t, id, "completed")

	result := countermand(t, "saga", "get", id, "-o", "json")
	var saga product.Saga
	if err := json.Unmarshal([]byte(result.Stdout), &saga); err != nil || result.Code != 0 {
		t.Fatalf("it ended %+v: %v", result, err)
	}
	if saga.ID != id || saga.Status != "completed" || len(saga.Steps) != 6 || saga.Revision < 1 {
		t.Errorf("saga is %+v", saga)
	}
	tree := countermand(t, "saga", "get", id)
	for _, step := range saga.Steps {
		if !strings.Contains(tree.Stdout, step.Name) {
			t.Errorf("the tree has no step %s:\n%s", step.Name, tree.Stdout)
		}
	}
}

func TestSagaWatchFollowsASagaToItsEnd(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]struct {
		status string
		code   int
	}{"tok_slow": {"completed", 0}, "tok_declined": {"compensated", 1}} {
		t.Run(token, func(t *testing.T) {
			t.Parallel()
			id := accepted(t, place(t, product.NewCheckout("cli", "TEA-001", 1, token)))
			result := watchOnceKnown(t, id)
			if result.Code != want.code {
				t.Errorf("it ended %+v, want code %d", result, want.code)
			}
			var last product.Saga
			revision := int64(0)
			for line := range strings.Lines(result.Stdout) {
				last = product.Saga{}
				if err := json.Unmarshal([]byte(line), &last); err != nil {
					t.Fatalf("line %q: %v", line, err)
				}
				if last.ID != id || last.Revision <= revision {
					t.Errorf("after revision %d comes %s of %s", revision, line, id)
				}
				revision = last.Revision
			}
			if last.Status != want.status {
				t.Errorf("the last line says %s, want %s", last.Status, want.status)
			}
		})
	}
}

// watchOnceKnown watches a saga, beginning when the engine has taken it up: an
// operation is accepted a moment before.
func watchOnceKnown(t *testing.T, id string) product.Result {
	t.Helper()
	err := product.Await(t.Context(), endTimeout, func() error {
		_, err := operator.Saga(t.Context(), id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return countermand(t, "saga", "watch", id, "-o", "json")
}

func TestACommandThatFailsSaysWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		says string
	}{
		"unknown saga":    {[]string{"saga", "get", "0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f"}, 4, "saga_not_found"},
		"unknown status":  {[]string{"saga", "list", "--status", "sleepy"}, 2, "invalid_status"},
		"unknown output":  {[]string{"saga", "list", "-o", "xml"}, 2, "fix: use table, json or jsonl"},
		"unknown command": {[]string{"dance"}, 2, "dance"},
		"unknown flag":    {[]string{"dev", "--dance"}, 2, "dance"},
		"no argument":     {[]string{"saga", "get"}, 2, "arg"},
		"unknown role":    {[]string{"serve", "dancer"}, 2, "gateway, engine, order, payment, inventory"},
		"nothing there":   {[]string{"saga", "list", "--admin", nobody}, 3, "countermand dev"},
		"no environment":  {[]string{"serve", "gateway"}, 2, "COUNTERMAND_SECRET"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := countermand(t, test.args...)
			if result.Code != test.code || !strings.Contains(result.Stderr, test.says) || result.Stdout != "" {
				t.Errorf("it ended %+v, want code %d and %q on stderr", result, test.code, test.says)
			}
		})
	}
}
