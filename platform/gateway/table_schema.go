package gateway

import (
	"bytes"
	_ "embed"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

//go:embed routes.schema.json
var tableSchema []byte

// TableSchema returns the JSON Schema 2020-12 of a route table. Editors that know
// it tell of a mistake while it is made. What depends on contracts, the environment
// or two routes at once only [ParseTable] can tell.
func TableSchema() []byte { return bytes.Clone(tableSchema) }

var compiledTableSchema = sync.OnceValue(func() *jsonschema.Schema {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(tableSchema))
	if err != nil {
		panic(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	const location = "urn:countermand:routes"
	if err := compiler.AddResource(location, document); err != nil {
		panic(err)
	}
	return compiler.MustCompile(location)
})

// checkSchema adds what breaks the published schema in a line that has no fault
// yet: the reader knows better words, and the schema is what was promised.
func (t *tableReader) checkSchema(root *yaml.Node) {
	var value any
	if err := root.Decode(&value); err != nil {
		if len(t.faults) == 0 {
			t.fail(root, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return
	}
	var invalid *jsonschema.ValidationError
	if err := compiledTableSchema().Validate(value); !errors.As(err, &invalid) {
		return
	}
	faulty := make(map[int]bool)
	for _, f := range t.faults {
		faulty[f.line] = true
	}
	for _, v := range explain(nil, invalid) {
		node := nodeAt(root, v.Pointer)
		if !faulty[node.Line] {
			t.fail(node, "%s: %s", strings.ReplaceAll(strings.TrimPrefix(v.Pointer, "/"), "/", ": "), v.Detail)
		}
	}
}

// nodeAt returns the node that a JSON Pointer leads to, or the last on the way.
func nodeAt(node *yaml.Node, pointer string) *yaml.Node {
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		next := child(resolve(node), token)
		if next == nil {
			break
		}
		node = next
	}
	return node
}

func child(node *yaml.Node, name string) *yaml.Node {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == name {
				return node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i]
		}
	default: // it has no children
	}
	return nil
}
