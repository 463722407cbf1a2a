package ai_test

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/countermand/countermand/platform/ai"
)

func TestPlusStopsAtTheEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ a, b, want ai.NanoUSD }{
		{1, 2, 3},
		{5, -7, -2},
		{math.MaxInt64, 1, math.MaxInt64},
		{math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64},
		{math.MinInt64, -1, math.MinInt64},
		{math.MinInt64, math.MaxInt64, -1},
	} {
		if got := test.a.Plus(test.b); got != test.want {
			t.Errorf("%d plus %d is %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

// The bill is what exact arithmetic says, rounded up once.
func TestBillIsExact(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var bill ai.Bill
		exact := new(big.Int)
		for range 1 + random.IntN(5) {
			units, rate := random.Int64()>>random.IntN(63), random.Int64()>>random.IntN(63)
			bill.Add(units, ai.Rate(rate))
			exact.Add(exact, new(big.Int).Mul(big.NewInt(units), big.NewInt(rate)))
		}
		exact.Add(exact, big.NewInt(ai.PerMillion-1)).Div(exact, big.NewInt(ai.PerMillion))
		want := ai.NanoUSD(math.MaxInt64)
		if exact.IsInt64() {
			want = ai.NanoUSD(exact.Int64())
		}
		if got := bill.Total(); got != want {
			t.Fatalf("the bill is %d, want %d", got, want)
		}
	}
}

func TestBillRoundsUpOnce(t *testing.T) {
	t.Parallel()
	var bill ai.Bill
	if bill.Total() != 0 {
		t.Errorf("an empty bill is %d", bill.Total())
	}
	bill.Add(1, 37_500_000) // 37.5 billionths
	bill.Add(1, 37_500_000)
	if got := bill.Total(); got != 75 {
		t.Errorf("two halves are rounded apart: %d, want 75", got)
	}
	bill.Add(1, 1)
	if got := bill.Total(); got != 76 {
		t.Errorf("the smallest use is free: %d, want 76", got)
	}
	bill.Add(-5, 1_000_000)
	bill.Add(5, -1_000_000)
	if got := bill.Total(); got != 76 {
		t.Errorf("what is negative has changed the bill to %d", got)
	}
}

func TestMoneyAsText(t *testing.T) {
	t.Parallel()
	for text, amount := range map[string]ai.NanoUSD{
		"0": 0, "1": ai.USD, "12.5": 12_500_000_000, "0.000000001": 1, "9223372036.854775807": math.MaxInt64,
	} {
		if got, err := ai.ParseUSD(text); err != nil || got != amount {
			t.Errorf("%s is read as %d, %v", text, got, err)
		}
		if got := amount.String(); got != text {
			t.Errorf("%d is written as %s, want %s", amount, got, text)
		}
	}
	if got := ai.NanoUSD(math.MinInt64).String(); got != "-9223372036.854775808" {
		t.Errorf("the least amount is written as %s", got)
	}
	if got := ai.NanoUSD(-1_500_000_000).String(); got != "-1.5" {
		t.Errorf("-1.5 is written as %s", got)
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000000001", "9223372036.854775808", "1,5", " 1", "１"} {
		if got, err := ai.ParseUSD(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestUsageTotals(t *testing.T) {
	t.Parallel()
	u := ai.Usage{Input: 1, CachedInput: 2, CacheWrite: 4, Output: 8, Reasoning: 16}
	if u.InputTotal() != 7 || u.OutputTotal() != 24 || u.Total() != 31 {
		t.Errorf("totals are %d, %d, %d", u.InputTotal(), u.OutputTotal(), u.Total())
	}
	if got := u.Plus(u).Total(); got != 62 {
		t.Errorf("twice is %d", got)
	}
	if got := (ai.Usage{Input: -5, Output: math.MaxInt64, Reasoning: math.MaxInt64}).Sane(); got.Input != 0 || got.Total() != math.MaxInt64 {
		t.Errorf("nonsense is taken as %+v", got)
	}
}

func TestCallIDAsText(t *testing.T) {
	t.Parallel()
	id := ai.NewCallID()
	text, err := json.Marshal(id)
	if err != nil || string(text) != `"`+id.String()+`"` {
		t.Fatalf("%s, %v", text, err)
	}
	var again ai.CallID
	if err := json.Unmarshal(text, &again); err != nil || again != id || again.IsZero() || !(ai.CallID{}).IsZero() {
		t.Errorf("%s is read as %s, %v", text, again, err)
	}
	if _, err := ai.ParseCallID("nonsense"); err == nil {
		t.Error("nonsense is taken for an id")
	}
}
