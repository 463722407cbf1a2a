// Package examples has prompts to begin with: sentiment, translation, summary, and
// triage, by which the saga review of the sample shop sorts notes. They
// ask the simulated provider until their model is changed.
package examples

import (
	"embed"
	"encoding/json"
	"fmt"
	"path"

	"github.com/countermand/countermand/platform/ai/prompt"
)

//go:embed *.json
var files embed.FS

// All returns the prompts in the order of their slugs.
func All() ([]prompt.Prompt, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("example prompts: %w", err)
	}
	prompts := make([]prompt.Prompt, len(entries))
	for i, entry := range entries {
		content, err := files.ReadFile(path.Clean(entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("example prompts: %w", err)
		}
		if err := json.Unmarshal(content, &prompts[i]); err != nil {
			return nil, fmt.Errorf("example prompt %s: %w", entry.Name(), err)
		}
	}
	return prompts, nil
}
