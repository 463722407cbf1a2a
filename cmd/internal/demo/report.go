package demo

import (
	"slices"
	"time"
)

// Report is what a demo found, as it is printed with --json.
type Report struct {
	Orders      int `json:"orders"`
	Completed   int `json:"completed"`
	Compensated int `json:"compensated"`
	Stuck       int `json:"stuck"`
	// Duplicates counts effects that happened twice, and operations that one
	// Idempotency-Key made beyond the first.
	Duplicates int        `json:"duplicates"`
	Invariants Invariants `json:"invariants"`
	// Problems tells, one line each, what was not as it must be.
	Problems        []string    `json:"problems,omitempty"`
	LatencyMS       Percentiles `json:"latency_ms"`
	OrdersPerSecond float64     `json:"orders_per_second"`
	Killed          []string    `json:"killed"`
	// ProgressEvents counts the events that told of the one order that was followed
	// while it was undone. It is none of Orders.
	ProgressEvents int `json:"progress_events"`
	AI             AI  `json:"ai"`
}

// Invariants are what must hold whatever was killed.
type Invariants struct {
	// Stock: what left the shelf was ordered and did not come back, and nothing is
	// still held.
	Stock bool `json:"stock"`
	// Money: every confirmed order was paid once and in full, and no other was; what
	// came back was refunded, once.
	Money bool `json:"money"`
	// Terminal: every accepted order ended as it had to.
	Terminal bool `json:"terminal"`
	// AI: the ledger has one row for every call of a model that was made, and none for
	// others; no budget was exceeded, and nothing stays reserved but for calls of which
	// nobody knows what they have cost.
	AI bool `json:"ai"`
}

// AI is what the notes of orders have come to.
type AI struct {
	Triaged   int    `json:"triaged"`   // notes that a model has read
	Unread    int    `json:"unread"`    // and that none could, so that a person did
	Calls     int    `json:"calls"`     // that sagas have asked for
	Uncertain int    `json:"uncertain"` // of which nobody knows whether they were made
	CostUSD   string `json:"cost_usd"`
}

// OK reports whether the run shows what it should.
func (r Report) OK() bool {
	return r.Invariants.Stock && r.Invariants.Money && r.Invariants.Terminal && r.Invariants.AI && r.Duplicates == 0 && r.Stuck == 0
}

// Percentiles of the time from an order's request to its end, in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

func percentiles(took []time.Duration) Percentiles {
	if len(took) == 0 {
		return Percentiles{}
	}
	slices.Sort(took)
	at := func(p float64) float64 {
		return float64(took[min(int(p*float64(len(took))), len(took)-1)].Microseconds()) / 1000
	}
	return Percentiles{P50: at(0.50), P95: at(0.95), P99: at(0.99)}
}
