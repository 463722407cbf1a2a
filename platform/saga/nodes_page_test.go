package saga_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const nodesPage = "testdata/linked/nodes.md"

var (
	diagramBlock = regexp.MustCompile("(?s)<!-- diagram: ([a-z-]+) -->\n```mermaid\n(.*?)```")
	goBlock      = regexp.MustCompile("(?s)```go\n(.*?)```")
)

// TestThePageOfNodesShowsWhatRuns compares docs/explanation/nodes.md with the
// examples: its code is part of them, and its diagrams are theirs.
func TestThePageOfNodesShowsWhatRuns(t *testing.T) {
	drawExamples(t)
	content, err := os.ReadFile(nodesPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	if *update {
		page = diagramBlock.ReplaceAllStringFunc(page, func(block string) string {
			name := diagramBlock.FindStringSubmatch(block)[1]
			return "<!-- diagram: " + name + " -->\n```mermaid\n" + rehearsed[name] + "```"
		})
		if err := os.WriteFile(nodesPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shown := make(map[string]bool)
	for _, block := range diagramBlock.FindAllStringSubmatch(page, -1) {
		shown[block[1]] = true
		if block[2] != rehearsed[block[1]] {
			t.Errorf("the diagram %s is not what is drawn; run: go test ./saga -run PageOfNodes -update", block[1])
		}
	}
	for name := range rehearsed {
		if !shown[name] {
			t.Errorf("the page does not show the diagram of the example %s", name)
		}
	}
	source, err := os.ReadFile("example_nodes_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := goBlock.FindAllStringSubmatch(page, -1)
	if len(blocks) < len(rehearsed) {
		t.Errorf("%d blocks of code for %d examples", len(blocks), len(rehearsed))
	}
	for _, block := range blocks {
		if !strings.Contains(flush(string(source)), flush(block[1])) {
			t.Errorf("this code of the page is not in example_nodes_test.go:\n%s", block[1])
		}
	}
}

// drawExamples runs the examples, whose output is checked elsewhere.
func drawExamples(t *testing.T) {
	t.Helper()
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	loud := os.Stdout
	os.Stdout = quiet
	defer func() {
		os.Stdout = loud
		if err := quiet.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, example := range []func(){
		ExampleStep, ExampleSequence, ExampleHandler, ExampleLocal, ExampleChild, ExampleParallel, ExampleChoice,
		ExampleForEach, ExampleAwait, ExampleEvent, ExampleSleep, ExampleDecide,
	} {
		example()
	}
}

// flush takes the indentation off every line.
func flush(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimLeft(line, "\t"))
	}
	return b.String()
}
