package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// customers is how many different ones order in turn: one alone would make the
// shop's read model wait for itself.
const customers = 1000

// checkout measures whole checkouts, from the POST to its 201: one at a time, as
// many as go with a fixed number of clients, and at half of that rate.
func checkout(ctx context.Context, options options) (Report, error) {
	if options.clients == 0 {
		options.clients = 128
	}
	s, err := startSystem(ctx, options.say)
	if err != nil {
		return Report{}, err
	}
	defer s.stop(ctx)
	var version string
	if err := s.admin.QueryRow(ctx, "show server_version").Scan(&version); err != nil {
		return Report{}, err
	}
	report := Report{
		Load:    map[string]any{"clients": options.clients, "duration_s": options.duration.Seconds(), "steps_per_saga": 6},
		Machine: machine(), Versions: versions(s.binary, version),
	}
	c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}
	var orders atomic.Int64
	order := func(ctx context.Context) (time.Duration, error) {
		return placeOrder(ctx, c, s.dev.HTTP, orders.Add(1)%customers)
	}

	options.say("warming up")
	if _, err := closedLoop(ctx, options.clients, 3*time.Second, order); err != nil {
		return report, err
	}
	options.say("idle: one at a time")
	idle, err := closedLoop(ctx, 1, options.duration/2, order)
	if err != nil {
		return report, err
	}
	options.say("closed loop: %d clients", options.clients)
	before, err := s.measure(ctx)
	if err != nil {
		return report, err
	}
	if options.profile != "" {
		profiled := make(chan error, 1)
		go func() { profiled <- profile(ctx, s.dev.Admin, options.duration-time.Second, options.profile) }()
		defer func() {
			if err := <-profiled; err != nil {
				options.say("%v", err)
			}
		}()
	}
	begin := time.Now()
	closed, err := closedLoop(ctx, options.clients, options.duration, order)
	if err != nil {
		return report, err
	}
	elapsed := time.Since(begin)
	after, err := s.measure(ctx)
	if err != nil {
		return report, err
	}
	used, n := after.Since(before), float64(len(closed))
	rate := n / elapsed.Seconds()
	options.say("open loop: %.0f per second", rate/2)
	open, late, err := openLoop(ctx, rate/2, options.duration, order)
	if err != nil {
		return report, err
	}
	report.Load["open_loop_per_second"] = rate / 2

	report.add("sagas_per_second", rate, "1/s")
	report.add("p50_ms", quantile(closed, 0.50), "ms")
	report.add("p99_ms", quantile(closed, 0.99), "ms")
	report.add("open_p50_ms", quantile(open, 0.50), "ms")
	report.add("open_p99_ms", quantile(open, 0.99), "ms")
	report.add("open_dropped", float64(late), "requests")
	report.add("idle_p50_ms", quantile(idle, 0.50), "ms")
	report.add("idle_p99_ms", quantile(idle, 0.99), "ms")
	report.add("cpu_ms_per_saga", milliseconds(used.Go+used.Postgres)/n, "ms")
	report.add("cpu_go_ms_per_saga", milliseconds(used.Go)/n, "ms")
	report.add("cpu_postgres_ms_per_saga", milliseconds(used.Postgres)/n, "ms")
	report.add("commits_per_saga", float64(used.Commits)/n, "1")
	report.add("wal_bytes_per_saga", float64(used.WAL)/n, "B")
	return report, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// placeOrder posts one order, waits for its outcome and returns how long it took.
func placeOrder(ctx context.Context, c *http.Client, base string, customer int64) (time.Duration, error) {
	order := fmt.Appendf(nil, `{"customer":"customer-%03d","currency":"EUR","items":[{"sku":"TEA-001","quantity":1}],"payment":{"token":"tok_ok"}}`, customer)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/orders", bytes.NewReader(order))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Prefer", "wait=30")
	begin := time.Now()
	response, err := c.Do(request)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusCreated {
		return 0, fmt.Errorf("checkout answered %s: %s", response.Status, body)
	}
	return time.Since(begin), nil
}
