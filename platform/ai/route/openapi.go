package route

import (
	"bytes"
	_ "embed"
)

//go:embed openapi.json
var described []byte

// OpenAPI returns what documents tell of the endpoints, for [gateway.Deps].Described and
// [gateway.Table.OpenAPI]. Bodies are those of OpenAI and Anthropic, whose own documents
// tell what is in them.
func OpenAPI() []byte { return bytes.Clone(described) }
