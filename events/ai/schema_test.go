package ai_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/events/schema"
)

var update = flag.Bool("update", false, "write schemas/ anew from the Go types")

// TestSchemas/the_committed_schemas_match_the_types is the drift check: a change
// of a contract type is a change of the wire, and must show in the diff.
func TestSchemas(t *testing.T) {
	want := make(map[string][]byte)
	all, err := schema.Of(ai.Contracts()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		want[s.Name] = s.Document
	}
	if *update {
		for name, document := range want {
			if err := os.WriteFile(filepath.Join("schemas", name+".json"), document, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("the committed schemas match the types", func(t *testing.T) {
		for name, document := range want {
			got, err := os.ReadFile(filepath.Join("schemas", name+".json"))
			if err != nil || string(got) != string(document) {
				t.Errorf("schemas/%s.json differs from the Go type; run: go test ./ai -update", name)
			}
		}
	})
	t.Run("no schema is left over", func(t *testing.T) {
		files, err := filepath.Glob("schemas/*.json")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			name := filepath.Base(file[:len(file)-len(".json")])
			if _, ok := want[name]; !ok {
				t.Errorf("%s belongs to no contract; delete it", file)
			}
		}
	})
}

func TestSchemaOfAnUnknownTypeIsAnError(t *testing.T) {
	if _, err := ai.Schema("ai.unknown.do.v1"); err == nil {
		t.Error("want an error")
	}
}
