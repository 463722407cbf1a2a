package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"github.com/countermand/countermand/tests/internal/checkout3"
)

// Loads of checkout3.
const (
	someInFlight = 256
	manyInFlight = 1024
	lightLoad    = 100 // sagas per second
	bareClients  = 64  // more are not faster
)

// checkout3Benchmark measures the workload that engines are compared by, with
// one commit per participant command and with participants that commit batches.
// Before each, the participant's transactions run alone, for the ratio vs_bare.
// The figures without a prefix are of the former at 1,024 in flight.
func checkout3Benchmark(ctx context.Context, options options) (Report, error) {
	report := Report{
		Load:    map[string]any{"duration_s": options.duration.Seconds(), "steps_per_saga": 3, "in_flight": manyInFlight},
		Machine: machine(),
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as the binaries do
	}
	for _, variant := range []struct {
		name, prefix string
		batched      bool
	}{{"command", "", false}, {"batch", "batched_", true}} {
		if options.commits != "" && options.commits != variant.name {
			continue
		}
		if err := checkout3Variant(ctx, options, &report, variant.name, variant.prefix, variant.batched); err != nil {
			return report, err
		}
	}
	return report, nil
}

func checkout3Variant(ctx context.Context, options options, report *Report, name, prefix string, batched bool) (err error) {
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	options.say("one commit per %s: starting PostgreSQL and JetStream, fsync on", name)
	s, err := checkout3.Start(ctx, checkout3.Config{Dir: dir, Batched: batched})
	if err != nil {
		return err
	}
	defer s.Stop()
	version, err := s.Version(ctx)
	if err != nil {
		return err
	}
	if report.Versions, err = selfVersions(version); err != nil {
		return err
	}
	var begun, completed, compensated atomic.Int64
	happy := func(ctx context.Context) (time.Duration, error) {
		took, err := s.Run(ctx, false)
		if err == nil {
			completed.Add(1)
		}
		return took, err
	}
	mixed := func(ctx context.Context) (time.Duration, error) {
		if begun.Add(1)%10 != 0 {
			return happy(ctx)
		}
		took, err := s.Run(ctx, true)
		if err == nil {
			compensated.Add(1)
		}
		return took, err
	}
	phase := func(run Run, loop func() ([]time.Duration, error)) (float64, error) {
		if options.phase != "" && options.phase != run.Name {
			return lightLoad, nil
		}
		run.Load["commit_per"] = name
		options.say("one commit per %s: %s", name, run.Name)
		before, err := s.Usage(ctx)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		took, err := loop()
		if err != nil {
			return 0, err
		}
		elapsed := time.Since(begin)
		time.Sleep(time.Second) // for the counters of commits
		after, err := s.Usage(ctx)
		if err != nil {
			return 0, err
		}
		used, n := after.Since(before), float64(len(took))
		run.Name = prefix + run.Name
		run.add("sagas_per_second", n/elapsed.Seconds(), "1/s")
		run.add("p50_ms", quantile(took, 0.50), "ms")
		run.add("p99_ms", quantile(took, 0.99), "ms")
		run.add("cpu_ms_per_saga", milliseconds(used.Go+used.Postgres)/n, "ms")
		run.add("cpu_go_ms_per_saga", milliseconds(used.Go)/n, "ms")
		run.add("cpu_postgres_ms_per_saga", milliseconds(used.Postgres)/n, "ms")
		run.add("commits_per_saga", float64(used.Commits)/n, "1")
		run.add("wal_bytes_per_saga", float64(used.WAL)/n, "B")
		report.Runs = append(report.Runs, run)
		return n / elapsed.Seconds(), nil
	}
	closed := func(run string, clients int, do func(context.Context) (time.Duration, error), percent int) (float64, error) {
		return phase(Run{Name: run, Load: map[string]any{"in_flight": clients, "compensated_percent": percent}},
			func() ([]time.Duration, error) { return closedLoop(ctx, clients, options.duration, do) })
	}
	open := func(run string, rate float64) error {
		_, err := phase(Run{Name: run, Load: map[string]any{"per_second": rate, "compensated_percent": 0}},
			func() ([]time.Duration, error) {
				took, late, err := openLoop(ctx, rate, options.duration, happy)
				if late > 0 {
					err = errors.Join(err, fmt.Errorf("%d sagas were not begun: %.0f per second is too much", late, rate))
				}
				return took, err
			})
		return err
	}

	bare, err := phase(Run{Name: "bare", Load: map[string]any{"in_flight": bareClients}}, func() ([]time.Duration, error) {
		alone, err := s.OpenBare(ctx)
		if err != nil {
			return nil, err
		}
		defer alone.Close()
		return closedLoop(ctx, bareClients, options.duration, alone.Run)
	})
	if err != nil {
		return err
	}
	if _, err := closedLoop(ctx, someInFlight, 2*time.Second, mixed); err != nil {
		return err
	}
	if _, err := closed("closed_256", someInFlight, happy, 0); err != nil {
		return err
	}
	finish, err := profileSelf(options.profile)
	if err != nil {
		return err
	}
	ceiling, err := closed("closed_1024", manyInFlight, happy, 0)
	if err := errors.Join(err, finish()); err != nil {
		return err
	}
	if len(report.Runs) > 0 {
		head := &report.Runs[len(report.Runs)-1]
		for _, figure := range head.Order {
			report.add(prefix+figure, head.Figures[figure].Value, head.Figures[figure].Unit)
		}
		if options.phase == "" {
			report.add(prefix+"vs_bare", ceiling/bare, "1")
		}
	}
	if _, err := closed("closed_256_compensated", someInFlight, mixed, 10); err != nil {
		return err
	}
	if _, err := closed("closed_1024_compensated", manyInFlight, mixed, 10); err != nil {
		return err
	}
	if err := open("open_half", ceiling/2); err != nil {
		return err
	}
	if err := open("open_100", lightLoad); err != nil {
		return err
	}
	return s.Verify(ctx, int(completed.Load()), int(compensated.Load()))
}

// profileSelf begins a CPU profile of this process; an empty file means none.
func profileSelf(file string) (finish func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	out, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		return out.Close()
	}, nil
}
