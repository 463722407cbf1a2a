package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// percents is how many sagas in a hundred are compensated, in each variant.
var percents = []int{0, 10}

// engine is one of those compared.
type engine struct {
	name string
	// measure returns one Run for each of percents.
	measure func(ctx context.Context, s *server, opts options) ([]Run, error)
}

// engines in the order in which they run.
func engines() []engine {
	return []engine{
		{"countermand", measureOurs},
		{"dbos", dbosPeer.measure},
		{"river", riverPeer.measure},
		{"river-one-tx", riverOneTxPeer.measure},
	}
}

func engineNames() []string {
	var names []string
	for _, e := range engines() {
		names = append(names, e.name)
	}
	return names
}

// compare runs the engines and works out the ratios.
func compare(ctx context.Context, opts options) (*Report, error) {
	wanted := engineNames()
	if opts.only != "" {
		wanted = strings.Split(opts.only, ",")
		for _, name := range wanted {
			if !slices.Contains(engineNames(), name) {
				return nil, fmt.Errorf("--only %q: there is %s", name, strings.Join(engineNames(), ", "))
			}
		}
	}
	opts.say("starting PostgreSQL, fsync on")
	s, err := startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer s.stop(ctx)
	report := &Report{
		Name: "peers", Load: map[string]any{"duration_s": opts.duration.Seconds(), "rounds": opts.rounds, "workload": "checkout-3"},
		Machine: machine(), Versions: versions(s.version),
	}
	var all []Run
	for range max(opts.rounds, 1) {
		for _, e := range engines() {
			if !slices.Contains(wanted, e.name) {
				continue
			}
			runs, err := e.measure(ctx, s, opts)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
			all = append(all, runs...)
		}
	}
	report.Runs = medians(all)
	report.compare()
	return report, nil
}

// medians returns, of each engine and variant, the run with the median rate, in
// the order of their first runs.
func medians(all []Run) []Run {
	type variant struct {
		engine  string
		percent int
	}
	var order []variant
	of := make(map[variant][]Run)
	for _, run := range all {
		v := variant{run.Engine, run.CompensatedPercent}
		if len(of[v]) == 0 {
			order = append(order, v)
		}
		of[v] = append(of[v], run)
	}
	var found []Run
	for _, v := range order {
		runs := of[v]
		slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.SagasPerSecond, b.SagasPerSecond) })
		found = append(found, runs[len(runs)/2])
	}
	return found
}
