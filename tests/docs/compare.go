package docs

import (
	"fmt"
	"regexp"
	"strings"
)

// follows reports an error unless the lines of shown come in output in this
// order, with others between them. In a line … stands for anything. Blank lines
// do not count.
func follows(output, shown string) error {
	lines := strings.Split(strings.ReplaceAll(output, "\r", ""), "\n")
	for want := range strings.Lines(shown) {
		want = strings.TrimSpace(want)
		if want == "" || want == "…" {
			continue
		}
		pattern := linePattern(want)
		for len(lines) > 0 && !pattern.MatchString(strings.TrimSpace(lines[0])) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return fmt.Errorf("what ran before does not show %q, or not in this place; its output is:\n%s", want, output)
		}
		lines = lines[1:]
	}
	return nil
}

func linePattern(shown string) *regexp.Regexp {
	parts := strings.Split(shown, "…")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}
