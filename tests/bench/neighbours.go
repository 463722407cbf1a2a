package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What a machine does beside a benchmark: its figures are worth no more than that allows.

// cpuOfMachine returns what all processes have used since the machine started, and what
// other machines have taken from it.
func cpuOfMachine() (time.Duration, error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("CPU accounting needs /proc: %w", err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	fields := strings.Fields(first) // cpu user nice system idle iowait irq softirq steal
	if len(fields) < 9 {
		return 0, fmt.Errorf("/proc/stat begins with %q", first)
	}
	var ticks int64
	for _, at := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// fsyncs writes and syncs 8 kB of a file of its own in a folder, a hundred times a
// second. What it returns ends that and tells how long each took: a broker whose acks
// wait for the same disk cannot answer sooner.
func fsyncs(folder string) (end func() ([]time.Duration, error), err error) {
	file, err := os.Create(filepath.Join(folder, "fsyncs"))
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	var failed error
	var wait sync.WaitGroup
	stop := make(chan struct{})
	wait.Go(func() {
		content := make([]byte, 8<<10)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for failed == nil {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			began := time.Now()
			_, err := file.WriteAt(content, 0)
			failed = errors.Join(err, file.Sync())
			took = append(took, time.Since(began))
		}
	})
	return func() ([]time.Duration, error) {
		close(stop)
		wait.Wait()
		return took, errors.Join(failed, file.Close())
	}, nil
}
