package meter

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const ticksPerSecond = 100 // USER_HZ of Linux on every architecture Go supports

// cpuOf returns the CPU time of a process, and of the children that it has waited
// for if ended is set.
func cpuOf(pid int, ended bool) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	last := 13
	if ended {
		last = 15
	}
	total := 0
	for _, field := range fields[11:last] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("cpu of process %d: %w", pid, err)
		}
		total += ticks
	}
	return time.Duration(total) * time.Second / ticksPerSecond, nil
}

// cpuOfServer returns the CPU time of a process and its children, with those that
// have ended.
func cpuOfServer(pid int) (time.Duration, error) {
	sum, err := cpuOf(pid, true)
	if err != nil {
		return 0, err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, fmt.Errorf("CPU accounting needs the list of children: %w", err)
	}
	for child := range strings.FieldsSeq(string(children)) {
		n, err := strconv.Atoi(child)
		if err != nil {
			return 0, fmt.Errorf("children of process %d: %w", pid, err)
		}
		if below, err := cpuOf(n, true); err == nil { // it may have ended meanwhile
			sum += below
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
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("CPU accounting needs /proc: %w", err)
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("stat of process %d is cut short", pid)
	}
	return fields, nil
}
