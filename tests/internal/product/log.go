package product

import (
	"fmt"
	"slices"
	"strings"
)

// Marks of what a log must never have: a process that crashed or whose memory is
// not safe, and an error that nobody provoked.
const (
	MarkPanic = "panic:"
	MarkRace  = "DATA RACE"
	MarkError = `"level":"ERROR"`
)

// CheckLog reports an error with the lines of a log that have one of the marks,
// and what follows the first.
func CheckLog(log string, marks ...string) error {
	lines := strings.Split(log, "\n")
	marked := func(line string) bool {
		return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(line, mark) })
	}
	first := slices.IndexFunc(lines, marked)
	if first < 0 {
		return nil
	}
	const shown = 40 // a stack or two
	found := 0
	for _, line := range lines {
		if marked(line) {
			found++
		}
	}
	return fmt.Errorf("the log has %d alarms, the first of them is:\n%s", found, strings.Join(lines[first:min(first+shown, len(lines))], "\n"))
}
