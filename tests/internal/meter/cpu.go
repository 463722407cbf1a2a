package meter

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const ticksPerSecond = 100 // USER_HZ of Linux on every architecture Go supports

// cpuOf returns the CPU time of a process, and of all below it if tree.
func cpuOf(pid int, tree bool) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	total := 0
	last := 13
	if tree {
		last = 15 // children that have ended and were waited for
	}
	for _, field := range fields[11:last] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("cpu of process %d: %w", pid, err)
		}
		total += ticks
	}
	sum := time.Duration(total) * time.Second / ticksPerSecond
	if !tree {
		return sum, nil
	}
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(entry)))
		if err != nil {
			continue
		}
		if parent, err := parentOf(child); err == nil && parent == pid {
			if below, err := cpuOf(child, true); err == nil { // it may have ended meanwhile
				sum += below
			}
		}
	}
	return sum, nil
}

func parentOf(pid int) (int, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// stat returns the fields of /proc/PID/stat after the command name, which may
// hold spaces: [0] is the state, [1] the parent, [11] to [14] the CPU ticks.
func stat(pid int) ([]string, error) {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, fmt.Errorf("CPU accounting needs /proc: %w", err)
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("stat of process %d is cut short", pid)
	}
	return fields, nil
}
