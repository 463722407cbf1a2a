package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/countermand/countermand/tests/internal/checkout3"
)

// engineWorkers is how many batches are in flight: one for each of two cores.
const engineWorkers = 2

// engineBench measures the engine alone: ready batches of starts and replies of
// sagas with five steps go in, and what is left is deciding and storing. The
// figures without a prefix are of batches of 64.
func engineBench(ctx context.Context, options options) (Report, error) {
	report := Report{
		Load:    map[string]any{"duration_s": options.duration.Seconds(), "steps_per_saga": checkout3.FiveSteps, "workers": engineWorkers},
		Machine: machine(),
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as the binaries do
	}
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return report, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	options.say("starting PostgreSQL, fsync on")
	database, err := checkout3.StartDatabase(ctx, dir, "")
	if err != nil {
		return report, err
	}
	defer func() {
		if err := database.Stop(); err != nil {
			options.say("%v", err)
		}
	}()
	version, err := database.Version(ctx)
	if err != nil {
		return report, err
	}
	if report.Versions, err = selfVersions(version); err != nil {
		return report, err
	}
	for _, n := range []int{1, 16, 64, 256} {
		run := Run{Name: fmt.Sprintf("in_flight_%d", n), Load: map[string]any{"in_flight_per_batch": n}}
		if options.phase != "" && options.phase != run.Name {
			continue
		}
		options.say("batches of %d", n)
		if err := engineRun(ctx, options, database, &run, n); err != nil {
			return report, err
		}
		report.Runs = append(report.Runs, run)
		if n == 64 {
			for _, name := range run.Order {
				report.add(name, run.Figures[name].Value, run.Figures[name].Unit)
			}
		}
	}
	return report, nil
}

func engineRun(ctx context.Context, options options, database *checkout3.Database, run *Run, n int) error {
	engine, err := checkout3.StartAlone(ctx, database, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	defer engine.Stop()
	total := 0
	drive := func(duration time.Duration) (transitions int, err error) {
		var (
			mu   sync.Mutex
			wait sync.WaitGroup
			end  = time.Now().Add(duration)
		)
		for worker := range engineWorkers {
			wait.Go(func() {
				mine, failed := engine.Drive(ctx, worker, n, end)
				mu.Lock()
				defer mu.Unlock()
				transitions += mine
				if failed != nil {
					err = failed
				}
			})
		}
		wait.Wait()
		total += transitions
		return transitions, err
	}
	if _, err := drive(time.Second); err != nil { // prepares statements and warms up
		return err
	}
	time.Sleep(time.Second)
	before, err := database.Usage(ctx)
	if err != nil {
		return err
	}
	finish, err := profileSelf(options.profile)
	if err != nil {
		return err
	}
	begin := time.Now()
	transitions, err := drive(options.duration)
	if err != nil {
		return err
	}
	elapsed := time.Since(begin)
	if err := finish(); err != nil {
		return err
	}
	time.Sleep(time.Second) // for the counters of commits
	after, err := database.Usage(ctx)
	if err != nil {
		return err
	}
	const perSaga = checkout3.FiveSteps + 1
	used, sagas := after.Since(before), float64(transitions)/perSaga
	run.add("transitions_per_second", float64(transitions)/elapsed.Seconds(), "1/s")
	run.add("sagas_per_second", sagas/elapsed.Seconds(), "1/s")
	run.add("pg_cpu_ms_per_saga", milliseconds(used.Postgres)/sagas, "ms")
	run.add("go_cpu_ms_per_saga", milliseconds(used.Go)/sagas, "ms")
	run.add("commits_per_saga", float64(used.Commits)/sagas, "1")
	run.add("wal_bytes_per_saga", float64(used.WAL)/sagas, "B")
	return engine.Verify(ctx, total/perSaga)
}
