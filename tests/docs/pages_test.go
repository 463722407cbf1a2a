package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// howTos are the pages among the how-tos that are walk-throughs.
var howTos = []string{"receive-webhooks.md", "use-the-ai-route.md", "spend-on-ai-within-budgets.md"}

// TestPagesDoWhatTheySay runs README.md, every tutorial and the how-tos that are
// walk-throughs, block by block. A page stops at its first block that does not do as it
// says. Pages that start a dev process of their own run beside those that share one,
// which come one after the other.
func TestPagesDoWhatTheySay(t *testing.T) {
	t.Parallel()
	tutorials, err := filepath.Glob(filepath.Join(product.Root(), "docs", "tutorial", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{filepath.Join(product.Root(), "README.md")}
	for _, name := range howTos {
		paths = append(paths, filepath.Join(product.Root(), "docs", "how-to", name))
	}
	var alone, sharing []page
	for _, path := range append(paths, tutorials...) {
		if p := readPage(t, path); slices.ContainsFunc(p.blocks, (*block).serves) {
			alone = append(alone, p)
		} else {
			sharing = append(sharing, p)
		}
	}
	for name, pages := range map[string][]page{"alone": alone, "sharing": sharing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, p := range pages {
				t.Run(p.name, func(t *testing.T) {
					if err := playBlocks(t, product.Root(), p.blocks, t.Logf); err != nil {
						t.Fatalf("%s:%v", p.name, err)
					}
				})
			}
		})
	}
}

// page is one with blocks that are run.
type page struct {
	name   string // from the root of the repository
	blocks []*block
}

func readPage(t *testing.T, path string) page {
	t.Helper()
	name, err := filepath.Rel(product.Root(), path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := parsePage(string(content))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if !slices.ContainsFunc(blocks, (*block).runs) {
		t.Fatalf("%s has no block marked sh that is run, so nothing of it is tested", name)
	}
	return page{name, blocks}
}

// playBlocks plays blocks in a session of their own, in a copy of the repository at
// root. The error begins with the line of the block.
func playBlocks(t *testing.T, root string, blocks []*block, logf func(string, ...any)) error {
	t.Helper()
	s, err := openSession(t.Context(), root, t.TempDir(), binary, served)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	for _, b := range blocks {
		if b.skip {
			logf("line %d is not run", b.line)
		}
		if err := s.play(t.Context(), b); err != nil {
			return fmt.Errorf("%d: %w\nthe block is:\n%s", b.line, err, b.text)
		}
	}
	return nil
}
