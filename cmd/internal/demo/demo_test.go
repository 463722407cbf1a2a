package demo

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestOrdersFollowTheSeed(t *testing.T) {
	a, b, c := orders(500, 7), orders(500, 7), orders(500, 8)
	same := func(x, y []order) bool {
		return slices.EqualFunc(x, y, func(p, q order) bool { return string(p.body) == string(q.body) })
	}
	if !same(a, b) {
		t.Error("one seed made two sets of orders")
	}
	if same(a, c) {
		t.Error("two seeds made one set of orders")
	}
	seen := make(map[string]int)
	for _, o := range a {
		seen[o.kind.name]++
	}
	if len(seen) != len(kinds) {
		t.Errorf("500 orders are of the kinds %v only", seen)
	}
}

func TestSharesAddUp(t *testing.T) {
	total := 0
	for _, k := range kinds {
		total += k.share
	}
	if total != 100 {
		t.Errorf("shares add up to %d", total)
	}
}

func TestReportIsNotOKWhenSomethingIsBroken(t *testing.T) {
	good := Report{Invariants: Invariants{Stock: true, Money: true, Terminal: true, AI: true}}
	if !good.OK() {
		t.Error("a good report is not OK")
	}
	for name, spoil := range map[string]func(*Report){
		"stock":      func(r *Report) { r.Invariants.Stock = false },
		"money":      func(r *Report) { r.Invariants.Money = false },
		"terminal":   func(r *Report) { r.Invariants.Terminal = false },
		"ai":         func(r *Report) { r.Invariants.AI = false },
		"duplicates": func(r *Report) { r.Duplicates = 1 },
		"stuck":      func(r *Report) { r.Stuck = 1 },
	} {
		bad := good
		spoil(&bad)
		if bad.OK() {
			t.Errorf("%s: a bad report is OK", name)
		}
	}
}

func TestSummariseTellsProblems(t *testing.T) {
	r := summarise([]result{
		{status: "completed", took: 10 * time.Millisecond},
		{status: "compensated", took: 20 * time.Millisecond},
		{problem: errors.New("it answered 500")},
		{status: "completed", took: time.Second, triage: "fraud"},
		{status: "completed", took: time.Second, triage: "unread: call_uncertain"},
		{status: "completed", took: 10 * time.Millisecond, triage: "harmless"},
	}, time.Second)
	if r.AI.Triaged != 2 || r.AI.Unread != 1 || r.LatencyMS.P99 > 50 {
		t.Errorf("%d notes were read, and the time of people counts: %+v", r.AI.Triaged, r.LatencyMS)
	}
	if r.Completed != 4 || r.Compensated != 1 || r.Invariants.Terminal || len(r.Problems) != 1 || r.OrdersPerSecond != 6 {
		t.Errorf("report %+v", r)
	}
}
