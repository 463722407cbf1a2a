package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/countermand/countermand/tests/internal/checkout3"
)

// measureOurs runs this project's engine as its own benchmark does, over
// JetStream with a sync before every ack, and with one commit for each command
// of a participant. With batches of commands in one commit, which no peer has, it
// is shown beside.
func measureOurs(ctx context.Context, s *server, opts options) ([]Run, error) {
	var runs []Run
	for _, variant := range []struct {
		name    string
		batched bool
	}{{"countermand", false}, {"countermand-batched", true}} {
		for _, percent := range percents {
			p := peer{name: variant.name, inFlight: oursInFlight}
			opts.say("%s: %d %% compensated, %d in flight", p.name, percent, p.inFlight)
			run, err := p.ours(ctx, s, opts, percent, variant.batched)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			if err := s.drop(ctx, "bench_engine", "bench_shop"); err != nil {
				return nil, err
			}
			runs = append(runs, run)
		}
	}
	return runs, nil
}

// oursInFlight is the load of our own benchmark.
const oursInFlight = 1024

func (p peer) ours(ctx context.Context, s *server, opts options, percent int, batched bool) (Run, error) {
	dir, err := os.MkdirTemp(s.dir, "nats-")
	if err != nil {
		return Run{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	system, err := checkout3.Start(ctx, checkout3.Config{
		Dir: dir, AdminURL: s.postgres.AdminURL(), Batched: batched,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return Run{}, err
	}
	defer system.Stop()
	var completed, compensated atomic.Int64
	run, err := p.load(ctx, s, opts, func(ctx context.Context, n int64) error {
		no := declined(n, percent)
		if _, err := system.Run(ctx, no); err != nil {
			return err
		}
		if no {
			compensated.Add(1)
		} else {
			completed.Add(1)
		}
		return nil
	})
	if err != nil {
		return run, err
	}
	run.CompensatedPercent = percent
	return run, system.Verify(ctx, int(completed.Load()), int(compensated.Load()))
}
