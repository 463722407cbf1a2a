package sagatest

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

var (
	seedFlag  = flag.Int64("sagatest.seed", -1, "play this seed alone, and print what happens")
	seedsFlag = flag.Int("sagatest.seeds", 0, "play this many seeds, whatever the tests say")
)

// Explore plays that many runs of the saga, each in a world of its own that a seed
// decides. Messages are lost, late, doubled and overtaken; engines, relays and
// participants crash before and after each commit and publish, stand still, and
// have clocks that differ; participants refuse, are deaf or mute; clients cancel.
// Then all faults end, and every saga must: with all its steps done, or with all
// that was done undone, once each and in the right order.
//
// The test fails with the first seed that breaks a promise. The log has one line
// that plays it again, and tells what happens in it, without the faults that do
// not matter.
func Explore(t testing.TB, definition saga.Compiler, seeds int, options ...Option) {
	t.Helper()
	if *seedsFlag > 0 {
		seeds = *seedsFlag
	}
	first, n := uint64(0), seeds
	if *seedFlag >= 0 {
		first, n = uint64(*seedFlag), 1
	}
	s := newSetup(definition, options)
	s.tellLocals(t)
	begin := time.Now()
	finding, err := explore(s, first, n)
	if err != nil {
		t.Fatal(err)
	}
	if finding != nil {
		t.Fatalf("%s\nreplay: go test -run '^%s$' . -sagatest.seed=%d", finding, strings.ReplaceAll(t.Name(), "/", "$/^"), finding.Seed)
	}
	if *seedFlag < 0 {
		Commute(t, definition, options...)
	}
	took := time.Since(begin)
	t.Logf("%d seeds in %s: %.0f a minute", n, took.Round(time.Millisecond), float64(n)/took.Minutes())
}

// Finding is a run that broke a promise.
type Finding struct {
	Seed uint64
	// Err is the promise that was broken.
	Err error
	// Weather are the faults that it takes.
	Weather string
	// Trace tells what happened.
	Trace string
}

func (f *Finding) String() string {
	return fmt.Sprintf("seed %d: %v\n%s\nwith %s\n", f.Seed, f.Err, f.Trace, f.Weather)
}

// Find is Explore for tests of the exploration itself: it returns the first
// finding, nil for none. The error is of the definition.
func Find(definition saga.Compiler, seeds int, options ...Option) (*Finding, error) {
	return explore(newSetup(definition, options), 0, seeds)
}

func explore(s *setup, first uint64, seeds int) (*Finding, error) {
	if s.err != nil {
		return nil, s.err
	}
	for seed := first; seed < first+uint64(seeds); seed++ {
		weather := draw(source(seed, 1), s.sagas)
		if err := newWorld(s.run(), seed, weather).play(); err != nil {
			return shrink(s, seed, weather, err), nil
		}
	}
	return nil, nil
}

// shrink takes away what a finding does not need: faults one by one, then sagas,
// trouble and time by halves.
func shrink(s *setup, seed uint64, w weather, err error) *Finding {
	try := func(smaller weather) bool {
		found := newWorld(s.run(), seed, smaller).play()
		if found == nil {
			return false
		}
		w, err = smaller, found
		return true
	}
	for f := range w.chance {
		smaller := w
		smaller.chance[f] = 0
		if w.chance[f] > 0 {
			try(smaller)
		}
	}
	for _, halve := range []func(*weather) bool{
		func(w *weather) bool { w.sagas /= 2; return w.sagas > 0 },
		func(w *weather) bool { w.steps /= 2; return w.steps > 0 },
		func(w *weather) bool { w.latest /= 2; return w.latest >= time.Millisecond },
	} {
		for smaller := w; halve(&smaller); {
			if !try(smaller) {
				break
			}
		}
	}
	var trace strings.Builder
	last := newWorld(s.run(), seed, w)
	last.tracer = func(line string) { trace.WriteString(line + "\n") }
	if found := last.play(); found != nil {
		err = found
	}
	return &Finding{Seed: seed, Err: err, Weather: w.String(), Trace: trace.String()}
}
