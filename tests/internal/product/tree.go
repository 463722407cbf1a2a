package product

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// running is one process as ps tells of it.
type running struct {
	pid, parent int
	state       string
}

// processes lists all processes. ps is what Linux and macOS have alike.
func processes(ctx context.Context) ([]running, error) {
	output, err := exec.CommandContext(ctx, "ps", "-A", "-o", "pid=,ppid=,stat=").Output()
	if err != nil {
		return nil, fmt.Errorf("list processes with ps: %w", err)
	}
	var all []running
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("list processes with ps: it printed %q", line)
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("list processes with ps: %w", err)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("list processes with ps: %w", err)
		}
		all = append(all, running{pid, parent, fields[2]})
	}
	return all, nil
}

// Descendants returns the processes below pid.
func Descendants(ctx context.Context, pid int) ([]int, error) {
	all, err := processes(ctx)
	if err != nil {
		return nil, err
	}
	var below []int
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, p := range all {
			if p.parent == next[0] {
				below = append(below, p.pid)
				next = append(next, p.pid)
			}
		}
	}
	return below, nil
}

// AwaitGone waits until none of the processes runs, and fails when one still
// does after the timeout.
func AwaitGone(ctx context.Context, pids []int, timeout time.Duration) error {
	return Await(ctx, timeout, func() error {
		all, err := processes(ctx)
		if err != nil {
			return err
		}
		for _, p := range all {
			if slices.Contains(pids, p.pid) && !strings.HasPrefix(p.state, "Z") {
				return fmt.Errorf("process %d still runs", p.pid)
			}
		}
		return nil
	})
}

// Await calls check until it returns nil; after the timeout its error counts.
func Await(ctx context.Context, timeout time.Duration, check func() error) error {
	const pause = 10 * time.Millisecond
	for end := time.Now().Add(timeout); ; {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %s: %w", timeout, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
