package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// closedLoop has each client do one thing after the other for that long.
func closedLoop(ctx context.Context, clients int, duration time.Duration, do func(context.Context) (time.Duration, error)) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		first error
		wait  sync.WaitGroup
		end   = time.Now().Add(duration)
	)
	for range clients {
		wait.Go(func() {
			var mine []time.Duration
			var failed error
			for time.Now().Before(end) && ctx.Err() == nil {
				took, err := do(ctx)
				if err != nil {
					failed = err
					break
				}
				mine = append(mine, took)
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

// inFlightMax bounds an open loop that the system cannot keep up with.
const inFlightMax = 4096

// openLoop begins at a fixed rate whatever is still running. What would exceed
// inFlightMax is dropped and counted.
func openLoop(ctx context.Context, rate float64, duration time.Duration, do func(context.Context) (time.Duration, error)) (all []time.Duration, dropped int, err error) {
	var (
		mu       sync.Mutex
		wait     sync.WaitGroup
		inFlight atomic.Int64
		begin    = time.Now()
	)
	for i := 0; ; i++ {
		at := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if at.Sub(begin) > duration || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Until(at))
		if inFlight.Load() >= inFlightMax {
			dropped++
			continue
		}
		inFlight.Add(1)
		wait.Go(func() {
			defer inFlight.Add(-1)
			_, failed := do(ctx)
			took := time.Since(at) // from when it should have begun
			mu.Lock()
			defer mu.Unlock()
			if failed != nil {
				err = failed
				return
			}
			all = append(all, took)
		})
	}
	wait.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return all, dropped, err
}
