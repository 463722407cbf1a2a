package docs

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// follows reports an error unless the lines of shown come in output in this
// order, with anything between them. White space does not count, so a long line
// may be broken where it reads well. Any id stands for any other, any time too,
// and … for anything.
func follows(output, shown string) error {
	rest := withoutSpace(output)
	for line := range strings.Lines(shown) {
		found := pattern(withoutSpace(line)).FindStringIndex(rest)
		if found == nil {
			return fmt.Errorf("what ran before does not show %q, or not in this place; its output is:\n%s", strings.TrimSpace(line), output)
		}
		rest = rest[found[1]:]
	}
	return nil
}

func withoutSpace(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
}

const (
	anyID   = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`
	anyTime = `\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?Z`
)

// wild finds what is not to be taken by the letter; an id may be cut short.
var wild = regexp.MustCompile(anyID + `|` + anyTime + `|[0-9a-f]{8}-…|…`)

func pattern(shown string) *regexp.Regexp {
	var b strings.Builder
	for shown != "" {
		at := wild.FindStringIndex(shown)
		if at == nil {
			break
		}
		b.WriteString(regexp.QuoteMeta(shown[:at[0]]))
		switch found := shown[at[0]:at[1]]; {
		case found == "…":
			b.WriteString(`.*?`)
		case strings.Contains(found, "T"):
			b.WriteString(anyTime)
		default:
			b.WriteString(anyID)
		}
		shown = shown[at[1]:]
	}
	b.WriteString(regexp.QuoteMeta(shown))
	return regexp.MustCompile(b.String())
}
