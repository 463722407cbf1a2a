package chaos

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestDemo plays the demo as `make demo` does, with fewer orders.
func TestDemo(t *testing.T) {
	t.Parallel()
	temporary := t.TempDir()
	result, err := product.Run(t.Context(), binary, []string{"TMPDIR=" + temporary}, "demo", "--orders", "150", "--seed", "3", "--json")
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 0 {
		t.Fatalf("it ended with code %d:\n%s\n%s", result.Code, result.Stdout, result.Stderr)
	}
	var report struct {
		Orders      *int `json:"orders"`
		Completed   *int `json:"completed"`
		Compensated *int `json:"compensated"`
		Stuck       *int `json:"stuck"`
		Duplicates  *int `json:"duplicates"`
		Invariants  struct {
			Stock, Money, Terminal, AI bool
		} `json:"invariants"`
		AI struct {
			Triaged, Unread, Calls, Uncertain int
			CostUSD                           string `json:"cost_usd"`
		} `json:"ai"`
		LatencyMS struct {
			P50, P95, P99 float64
		} `json:"latency_ms"`
		OrdersPerSecond float64  `json:"orders_per_second"`
		Killed          []string `json:"killed"`
		ProgressEvents  int      `json:"progress_events"`
	}
	decoder := json.NewDecoder(strings.NewReader(result.Stdout))
	if err := decoder.Decode(&report); err != nil || decoder.More() {
		t.Fatalf("stdout is %q, want one JSON object: %v", result.Stdout, err)
	}
	for name, value := range map[string]*int{
		"orders": report.Orders, "completed": report.Completed, "compensated": report.Compensated,
		"stuck": report.Stuck, "duplicates": report.Duplicates,
	} {
		if value == nil {
			t.Fatalf("the report has no %s: %s", name, result.Stdout)
		}
	}
	if *report.Orders != 150 || *report.Completed+*report.Compensated != 150 || *report.Stuck != 0 || *report.Duplicates != 0 ||
		*report.Completed == 0 || *report.Compensated == 0 {
		t.Errorf("the report is %s, want all 150 orders ended, some of them either way", result.Stdout)
	}
	if !report.Invariants.Stock || !report.Invariants.Money || !report.Invariants.Terminal || !report.Invariants.AI {
		t.Errorf("an invariant is broken: %s", result.Stdout)
	}
	if l := report.LatencyMS; l.P50 <= 0 || l.P95 < l.P50 || l.P99 < l.P95 || report.OrdersPerSecond <= 0 {
		t.Errorf("the figures make no sense: %s", result.Stdout)
	}
	if a := report.AI; a.Triaged == 0 || a.Calls < a.Triaged || a.Calls > a.Triaged+a.Unread || a.CostUSD == "" || a.CostUSD == "0" {
		t.Errorf("the notes of orders have come to %+v", a)
	}
	if !slices.Contains(report.Killed, "engine") || !slices.Contains(report.Killed, "ai") || len(report.Killed) < 3 {
		t.Errorf("it killed %q, want the engine, what calls models and another participant", report.Killed)
	}
	if report.ProgressEvents < 3 { // forward, back, and the end
		t.Errorf("%d events told of the order that was undone", report.ProgressEvents)
	}
	steps := []string{"→ reserve-stock", "DELETE /v1/operations/", "← authorize-payment", "← reserve-stock", "← create-order", "compensated, code cancelled"}
	for at, rest := 0, result.Stderr; at < len(steps); at++ {
		_, after, found := strings.Cut(rest, steps[at])
		if !found {
			t.Errorf("it does not show %q after %v: %s", steps[at], steps[:at], result.Stderr)
			break
		}
		rest = after
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind: %v", left, err)
	}
	if !strings.Contains(result.Stderr, "kill -9") {
		t.Errorf("it does not tell what it does: %s", result.Stderr)
	}
}
