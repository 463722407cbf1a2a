// Package schematest keeps committed JSON Schemas the same as the types of their
// contracts.
package schematest

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/schema"
)

var update = flag.Bool("update", false, "write schemas/ anew from the Go types")

// Check fails when a file in the folder schemas of the package under test differs from
// the type of its contract, or belongs to none: a change of a contract type is a change
// of the wire, and must show in the diff. With -update it writes them anew.
func Check(t *testing.T, contracts ...events.Contract) {
	t.Helper()
	want := make(map[string][]byte)
	all, err := schema.Of(contracts...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		want[s.Name] = s.Document
	}
	for name, document := range want {
		file := filepath.Join("schemas", name+".json")
		if *update {
			if err := os.WriteFile(file, document, 0o644); err != nil { //nolint:gosec // they are public
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != string(document) { //nolint:gosec // its name is a contract's
			t.Errorf("%s differs from the Go type; run the test with -update", file)
		}
	}
	files, err := filepath.Glob("schemas/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, ok := want[filepath.Base(file[:len(file)-len(".json")])]; !ok {
			t.Errorf("%s belongs to no contract; delete it", file)
		}
	}
}
