package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

const (
	// idleFollowers have nothing to read but heartbeats.
	idleFollowers = 10_000
	// fanOutFollowers each get every event, of which fanOutRate are published in a
	// second, over HTTP, in batches of fanOutBatch.
	fanOutFollowers = 100
	fanOutRate      = 5000
	fanOutBatch     = 50
)

// followersRoutes let events of a type that no service reads in and out.
const followersRoutes = `
version: 1
routes:
  - {id: bench-in, kind: events, match: POST /v1/bench, types: [shop.review.decided.v1]}
  - {id: bench-out, kind: stream, match: GET /v1/bench, types: [shop.review.decided.v1]}
`

// followersBench measures what followers of a stream cost: memory of those who wait,
// and CPU and time of many who read everything. Every event is accounted for at every
// follower.
func followersBench(ctx context.Context, options options) (Report, error) {
	if err := checkFileLimit(idleFollowers + 1000); err != nil {
		return Report{}, err
	}
	s, err := startSystem(ctx, options.say)
	if err != nil {
		return Report{}, err
	}
	defer s.stop(ctx)
	routes := filepath.Join(s.dir, "routes.yaml")
	if err := os.WriteFile(routes, []byte(followersRoutes), 0o600); err != nil {
		return Report{}, err
	}
	if err := s.dev.Stop(); err != nil {
		return Report{}, err
	}
	s.dev, err = product.StartDev(ctx, s.binary, filepath.Join(s.dir, "data"), s.log, "DATABASE_URL="+s.postgres.AdminURL(), "COUNTERMAND_ROUTES="+routes)
	if err != nil {
		return Report{}, err
	}
	var version string
	if err := s.admin.QueryRow(ctx, "show server_version").Scan(&version); err != nil {
		return Report{}, err
	}
	report := Report{
		Load: map[string]any{
			"idle_followers": idleFollowers, "followers": fanOutFollowers, "events_per_second": fanOutRate, "duration_s": options.duration.Seconds(),
		},
		Machine: machine(), Versions: versions(s.binary, version),
	}
	if err := s.idleFollowers(ctx, options, &report); err != nil {
		return report, err
	}
	return report, s.fanOut(ctx, options, &report)
}

// checkFileLimit reports when this process, and so those it starts, may not open as
// many files. Go raises the limit to what the system allows.
func checkFileLimit(want uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	if limit.Cur < want {
		return fmt.Errorf("a process may open %d files here, and %d are needed: raise it with ulimit -Hn %d; ulimit -n %d", limit.Cur, want, want, want)
	}
	return nil
}

// idleFollowers opens streams and looks at the memory of the process.
func (s *system) idleFollowers(ctx context.Context, options options, report *Report) error {
	before, err := residentBytes(s.dev.PID)
	if err != nil {
		return err
	}
	options.say("idle: %d followers", idleFollowers)
	ctx, stop := context.WithCancel(ctx)
	var open []*follower
	defer func() {
		stop()
		for _, f := range open {
			f.close()
		}
	}()
	began := time.Now()
	var mu sync.Mutex
	var opening sync.WaitGroup
	var first error
	places := make(chan struct{}, 64)
	for range idleFollowers {
		places <- struct{}{}
		opening.Go(func() {
			defer func() { <-places }()
			f, err := openFollower(ctx, s.dev.HTTP, "", 256)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				open = append(open, f)
			} else if first == nil {
				first = err
			}
		})
	}
	opening.Wait()
	if first != nil {
		return fmt.Errorf("%d of %d followers are open: %w", len(open), idleFollowers, first)
	}
	opened := time.Since(began)
	// Each gets a heartbeat in 15 s, so that what a wake-up costs is in the figure.
	use, err := s.measure(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(20 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := residentBytes(s.dev.PID)
	if err != nil {
		return err
	}
	later, err := s.measure(ctx)
	if err != nil {
		return err
	}
	for i, f := range open {
		if !f.alive() {
			return fmt.Errorf("follower %d of %d was cut off", i, len(open))
		}
	}
	report.add("idle_rss_mb", float64(after)/1e6, "MB")
	report.add("idle_rss_added_mb", float64(after-before)/1e6, "MB")
	report.add("idle_rss_kb_per_follower", float64(after-before)/1e3/idleFollowers, "kB")
	report.add("idle_cpu_percent", 100*(later.Go-use.Go).Seconds()/20, "%")
	report.add("opened_per_second", idleFollowers/opened.Seconds(), "1/s")
	return nil
}

// residentBytes returns how much memory a process holds.
func residentBytes(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory accounting needs /proc: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kilobytes int64
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return kilobytes << 10, nil
}
