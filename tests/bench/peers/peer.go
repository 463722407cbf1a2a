package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// warmUp is how long an engine runs before it is measured.
const warmUp = 3 * time.Second

// peer is an engine that runs in this process.
type peer struct {
	name     string
	version  string
	inFlight int // of the closed loop: where more does not make it faster
	// open prepares it on two empty databases. saga runs one saga to its end.
	open func(ctx context.Context, own, shop string) (p participants, saga func(ctx context.Context, id uuid.UUID, declined bool) error, stop func(), err error)
}

// measure runs the variants, each on fresh databases.
func (p peer) measure(ctx context.Context, s *server, opts options) ([]Run, error) {
	var runs []Run
	for _, percent := range percents {
		opts.say("%s %s: %d %% compensated, %d in flight", p.name, p.version, percent, p.inFlight)
		run, err := p.variant(ctx, s, opts, percent)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

func (p peer) variant(ctx context.Context, s *server, opts options, percent int) (run Run, err error) {
	const own, shop = "peer_engine", "peer_shop"
	ownURL, err := s.createDatabase(ctx, own)
	if err != nil {
		return run, err
	}
	shopURL, err := s.createDatabase(ctx, shop)
	if err != nil {
		return run, err
	}
	work, saga, stop, err := p.open(ctx, ownURL, shopURL)
	if err != nil {
		return run, err
	}
	defer func() {
		stop()
		work.pool.Close()
		err = errors.Join(err, s.drop(context.WithoutCancel(ctx), own, shop))
	}()
	var sagas, refused atomic.Int64
	run, err = p.load(ctx, s, opts, func(ctx context.Context, n int64) error {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		no := declined(n, percent)
		sagas.Add(1)
		if no {
			refused.Add(1)
		}
		if err := saga(ctx, id, no); err != nil {
			return fmt.Errorf("saga %s: %w", id, err)
		}
		return nil
	})
	if err != nil {
		return run, err
	}
	run.CompensatedPercent = percent
	return run, work.check(ctx, sagas.Load(), refused.Load())
}

// sharedRate is a rate, in sagas per second, that every engine holds.
const sharedRate = 200

// load runs sagas in a closed loop, then in an open one at half its rate, and then in
// one at the rate that all engines share.
func (p peer) load(ctx context.Context, s *server, opts options, do task) (Run, error) {
	run := Run{Engine: p.name, Version: p.version, InFlight: p.inFlight}
	var next atomic.Int64
	if _, err := closedLoop(ctx, p.inFlight, warmUp, &next, do); err != nil {
		return run, err
	}
	before, err := s.usage(ctx)
	if err != nil {
		return run, err
	}
	begin := time.Now()
	closed, err := closedLoop(ctx, p.inFlight, opts.duration, &next, do)
	if err != nil {
		return run, err
	}
	run.SagasPerSecond = float64(len(closed)) / time.Since(begin).Seconds()
	time.Sleep(time.Second) // Postgres reports commits that late
	after, err := s.usage(ctx)
	if err != nil {
		return run, err
	}
	open, err := openLoop(ctx, run.SagasPerSecond/2, opts.duration, &next, do)
	if err != nil {
		return run, err
	}
	quiet, err := s.usage(ctx)
	if err != nil {
		return run, err
	}
	shared, err := openLoop(ctx, sharedRate, opts.duration, &next, do)
	if err != nil {
		return run, err
	}
	end, err := s.usage(ctx)
	if err != nil {
		return run, err
	}
	few := end.Since(quiet)
	run.SharedP50, run.SharedP99 = quantile(shared, 0.50), quantile(shared, 0.99)
	run.SharedCPU = milliseconds(few.Go+few.Postgres) / float64(len(shared))
	used, n := after.Since(before), float64(len(closed))
	run.P50, run.P99 = quantile(closed, 0.50), quantile(closed, 0.99)
	run.OpenP50, run.OpenP99 = quantile(open, 0.50), quantile(open, 0.99)
	run.CPU = milliseconds(used.Go+used.Postgres) / n
	run.Commits, run.WAL = float64(used.Commits)/n, float64(used.WAL)/n
	return run, nil
}
