package sim_test

import (
	"flag"
	"strconv"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga/sagatest"
)

// budget is how many seeds a test plays: those that were asked for, or its own.
func budget(t *testing.T, own int) int {
	t.Helper()
	if n, err := strconv.Atoi(flag.Lookup("sagatest.seeds").Value.String()); err == nil && n > 0 {
		return n
	}
	return own
}

// perFlow is how many seeds of one random flow are played: a bug of the engine
// needs the right flow more than the right weather.
const perFlow = 8

func TestFlows(t *testing.T) {
	begin, n := time.Now(), budget(t, 500)
	for flow := range uint64(n) {
		d := newFlow(flow)
		finding, err := sagatest.Find(d, perFlow, sagatest.Sagas(1))
		if err != nil {
			t.Fatalf("flow %d: %v", flow, err)
		}
		if finding != nil {
			t.Fatalf("flow %d: %s", flow, finding)
		}
		if flow%25 == 0 {
			sagatest.Unwind(t, d)
			sagatest.Commute(t, d)
		}
	}
	t.Logf("%d flows, %d seeds each: %.0f seeds a minute", n, perFlow, float64(n*perFlow)/time.Since(begin).Minutes())
}

// flawBudget is within how many seeds each flaw must be found.
const flawBudget = 500

func TestFlaws(t *testing.T) {
	for _, flaw := range sagatest.Flaws() {
		t.Run(string(flaw), func(t *testing.T) {
			finding, err := sagatest.Find(shopSaga, flawBudget, append(shopOptions(), sagatest.Broken(flaw))...)
			if err != nil {
				t.Fatal(err)
			}
			if finding == nil {
				t.Fatalf("%d seeds have not found it", flawBudget)
			}
			t.Logf("found by seed %d: %v", finding.Seed, finding.Err)
		})
	}
}
