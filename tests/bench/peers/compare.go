package main

import (
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
		Name: "peers", Load: map[string]any{"duration_s": opts.duration.Seconds(), "workload": "checkout-3"},
		Machine: machine(), Versions: versions(s.version),
	}
	for _, e := range engines() {
		if !slices.Contains(wanted, e.name) {
			continue
		}
		runs, err := e.measure(ctx, s, opts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		report.Runs = append(report.Runs, runs...)
	}
	report.compare()
	return report, nil
}
