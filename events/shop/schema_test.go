package shop_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
)

var update = flag.Bool("update", false, "write schemas/ anew from the Go types")

// TestSchemas/the_committed_schemas_match_the_types is the drift check: a change
// of a contract type is a change of the wire, and must show in the diff.
func TestSchemas(t *testing.T) {
	want := make(map[string][]byte)
	for _, contract := range shop.Contracts() {
		d := contract.Describe()
		want[d.Type] = generate(t, d.Type, d.Request)
		if d.Kind == events.KindCommand && d.Reply != reflect.TypeFor[events.None]() {
			want[d.Type+".reply"] = generate(t, d.Type+".reply", d.Reply)
		}
	}
	if *update {
		for name, schema := range want {
			if err := os.WriteFile(filepath.Join("schemas", name+".json"), schema, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("the committed schemas match the types", func(t *testing.T) {
		for name, schema := range want {
			got, err := os.ReadFile(filepath.Join("schemas", name+".json"))
			if err != nil || string(got) != string(schema) {
				t.Errorf("schemas/%s.json differs from the Go type; run: go test ./shop -update", name)
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

func generate(t *testing.T, name string, typ reflect.Type) []byte {
	t.Helper()
	reflector := jsonschema.Reflector{Anonymous: true, DoNotReference: true}
	schema := reflector.ReflectFromType(typ)
	schema.ID = jsonschema.ID("urn:countermand:schema:" + name)
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func TestSchemaOfAnUnknownTypeIsAnError(t *testing.T) {
	if _, err := shop.Schema("shop.unknown.do.v1"); err == nil {
		t.Error("want an error")
	}
}
