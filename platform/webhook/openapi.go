package webhook

import (
	"bytes"
	_ "embed"
)

//go:embed openapi.json
var described []byte

// OpenAPI returns what documents tell of the [Store.Resources], for
// [gateway.Deps].Described and [gateway.Table.OpenAPI].
func OpenAPI() []byte { return bytes.Clone(described) }
