package docs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// block is a fenced block of a page, with what the comments above it say.
type block struct {
	line int // of its opening fence
	lang string
	text string

	skip       bool
	expect     []string
	exit       int
	within     time.Duration
	background string // what its output must have before the page goes on
	output     bool
	file       string
	patch      bool
}

// runs reports whether the block is one of commands.
func (b *block) runs() bool { return b.lang == "sh" && !b.skip }

// serves reports whether the block starts a dev process.
func (b *block) serves() bool {
	return b.background != "" && strings.Contains(b.text, "countermand dev")
}

// acts reports whether something is done with the block although it is not run.
func (b *block) acts() bool { return b.output || b.file != "" || b.patch }

var (
	directivePattern = regexp.MustCompile(`^\s*<!--\s*test:\s*(.*?)\s*-->\s*$`)
	fencePattern     = regexp.MustCompile("^(\\s*)(`{3,}|~{3,})\\s*([A-Za-z0-9_+-]*)[^`]*$")
)

// parsePage returns the blocks of a page in Markdown, and all faults of its
// directives at once.
func parsePage(page string) ([]*block, error) {
	var (
		blocks   []*block
		faults   []error
		pending  = &block{} // holds the directives for the next block
		declared int        // line of the last directive that waits for a block
	)
	fail := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...)))
	}
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if directive := directivePattern.FindStringSubmatch(line); directive != nil {
			declared = i + 1
			if err := pending.obey(directive[1]); err != nil {
				fail(i+1, "%v", err)
			}
			continue
		}
		fence := fencePattern.FindStringSubmatch(line)
		if fence == nil {
			if strings.TrimSpace(line) != "" && declared > 0 {
				fail(declared, "a directive must stand right above a block")
				pending, declared = &block{}, 0
			}
			continue
		}
		b := pending
		b.line, b.lang = i+1, fence[3]
		end := closing(lines, i+1, fence[2])
		if end < 0 {
			fail(i+1, "the block has no end")
			break
		}
		b.text = dedent(lines[i+1:end], fence[1])
		if err := b.check(); err != nil {
			fail(i+1, "%v", err)
		}
		blocks = append(blocks, b)
		i, pending, declared = end, &block{}, 0
	}
	if declared > 0 {
		fail(declared, "a directive must stand right above a block")
	}
	return blocks, errors.Join(faults...)
}

// closing returns the index of the line that ends a block, -1 when none does.
func closing(lines []string, from int, fence string) int {
	for i := from; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		if len(line) >= len(fence) && strings.Trim(line, fence[:1]) == "" {
			return i
		}
	}
	return -1
}

// dedent takes the indentation of the fence off the lines.
func dedent(lines []string, indent string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(strings.TrimPrefix(line, indent))
		b.WriteByte('\n')
	}
	return b.String()
}

// obey reads one directive.
func (b *block) obey(directive string) error {
	word, rest, _ := strings.Cut(directive, " ")
	rest = strings.TrimSpace(rest)
	var err error
	switch strings.TrimSuffix(word, ",") {
	case "skip":
		if b.skip = true; rest == "" {
			err = errors.New("skip wants a reason: skip, it would …")
		}
	case "expect":
		var text string
		text, err = quoted(word, rest)
		b.expect = append(b.expect, text)
	case "background":
		b.background, err = quoted(word, rest)
	case "exit":
		if b.exit, err = strconv.Atoi(rest); err != nil || b.exit < 1 || b.exit > 255 {
			err = fmt.Errorf("exit wants a code from 1 to 255, not %q", rest)
		}
	case "within":
		if b.within, err = time.ParseDuration(rest); err != nil || b.within <= 0 {
			err = fmt.Errorf("within wants a time such as 10s, not %q", rest)
		}
	case "output":
		b.output = true
	case "patch":
		b.patch = true
	case "file":
		if b.file = rest; rest == "" {
			err = errors.New("file wants a path")
		}
	default:
		err = fmt.Errorf("there is no directive %q", word)
	}
	return err
}

func quoted(word, text string) (string, error) {
	unquoted, err := strconv.Unquote(text)
	if err != nil || unquoted == "" {
		return "", fmt.Errorf("%s wants a text in double quotes, not %q", word, text)
	}
	return unquoted, nil
}

// check refuses directives that make no sense for the block.
func (b *block) check() error {
	commands := len(b.expect) > 0 || b.exit > 0 || b.within > 0 || b.background != ""
	switch {
	case b.lang == "bash" || b.lang == "shell":
		return fmt.Errorf("mark it sh, and it is run, or console, and it is not; %s is neither", b.lang)
	case b.lang == "sh" && b.acts():
		return errors.New("output, file and patch are for blocks that are not sh")
	case b.lang != "sh" && (commands || b.skip):
		return errors.New("skip, expect, exit, within and background are for sh blocks")
	case b.background != "" && (len(b.expect) > 0 || b.exit > 0 || b.within > 0):
		return errors.New("background goes with no other directive")
	}
	return nil
}
