package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// task runs the n-th saga to its end.
type task func(ctx context.Context, n int64) error

// closedLoop keeps that many sagas in flight for that long.
func closedLoop(ctx context.Context, inFlight int, duration time.Duration, next *atomic.Int64, do task) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		first error
		wait  sync.WaitGroup
		end   = time.Now().Add(duration)
	)
	for range inFlight {
		wait.Go(func() {
			var mine []time.Duration
			var failed error
			for time.Now().Before(end) && ctx.Err() == nil {
				begin := time.Now()
				if failed = do(ctx, next.Add(1)); failed != nil {
					break
				}
				mine = append(mine, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			if first == nil {
				first = failed
			}
		})
	}
	wait.Wait()
	if first == nil {
		first = ctx.Err()
	}
	return all, first
}

// openLoop begins sagas at a fixed rate, whatever is still running. A latency
// counts from when the saga should have begun.
func openLoop(ctx context.Context, rate float64, duration time.Duration, next *atomic.Int64, do task) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		first error
		wait  sync.WaitGroup
		begin = time.Now()
	)
	for i := 0; ; i++ {
		at := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if at.Sub(begin) > duration || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Until(at))
		wait.Go(func() {
			err := do(ctx, next.Add(1))
			took := time.Since(at)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				first = err
				return
			}
			all = append(all, took)
		})
	}
	wait.Wait()
	if first == nil {
		first = ctx.Err()
	}
	return all, first
}

// quantile returns the q-quantile of took in milliseconds; took is sorted.
func quantile(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return milliseconds(took[min(int(q*float64(len(took))), len(took)-1)])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
