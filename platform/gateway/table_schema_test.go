package gateway_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/platform/gateway"
)

// The published schema accepts the table that the tests serve, and refuses each of
// these mistakes by itself: an editor that knows only the schema tells of them.
func TestTableSchema(t *testing.T) {
	t.Parallel()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(gateway.TableSchema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("urn:x", document); err != nil {
		t.Fatal(err)
	}
	schema := compiler.MustCompile("urn:x")
	check := func(table string) error {
		var value any
		if err := yaml.Unmarshal([]byte(table), &value); err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value)
	}
	if err := check(routes); err != nil {
		t.Errorf("the table of the tests: %v", err)
	}
	shop, err := os.ReadFile("testdata/linked/routes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := check(string(shop)); err != nil {
		t.Errorf("the table of the shop: %v", err)
	}
	for what, table := range map[string]string{
		"version":         "version: 2",
		"top field":       "version: 1\nroute: []",
		"kind":            "version: 1\nroutes: [{id: a, kind: teapot, match: GET /a}]",
		"no id":           "version: 1\nroutes: [{kind: proxy, match: GET /a, upstream: x}]",
		"field of kind":   "version: 1\nroutes: [{id: a, kind: proxy, match: GET /a, upstream: x, wait: {}}]",
		"required field":  "version: 1\nroutes: [{id: a, kind: signal, match: POST /a, signal: x}]",
		"duration":        "version: 1\nupstreams: {a: {url: x, timeout: 5 seconds}}",
		"status":          "version: 1\nroutes: [{id: a, kind: command, match: POST /a, command: x, outcome: {completed: {status: 202}}}]",
		"rejected status": "version: 1\nroutes: [{id: a, kind: command, match: POST /a, command: x, outcome: {rejected: {no: 200}}}]",
		"guard":           "version: 1\nroutes: [{id: a, kind: proxy, match: GET /a, upstream: x, guards: [{when: x}]}]",
	} {
		if check(table) == nil {
			t.Errorf("%s: the schema accepts it", what)
		}
	}
}

// What breaks the schema alone is a fault of the file, with its line.
func TestFaultsThatOnlyTheSchemaTells(t *testing.T) {
	t.Parallel()
	_, err := gateway.ParseTable("routes.yaml", []byte("version: 1\nupstreams:\n  order: {url: http://127.0.0.1:1}\nroutes:\n"+
		"  - id: a\n    kind: proxy\n    match: GET /a\n    upstream: order\n    guards:\n      - {allow: 'true',\n         detail: "+
		strings.Repeat("x", 1025)+"}\n"), contracts(t), lookupIn(nil))
	if want := "routes.yaml:11: routes: 0: guards: 0: detail: must have at most 1024 characters"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTableSchemaInTheDocs(t *testing.T) {
	t.Parallel()
	published, err := os.ReadFile("testdata/linked/routes.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(published, gateway.TableSchema()) {
		t.Error("docs/reference/routes.schema.json differs: copy platform/gateway/routes.schema.json")
	}
}
