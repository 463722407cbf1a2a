package simulated

import (
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire/body"
)

// Bounds of a sample: a schema may ask for any size, as anybody may who sends one.
const (
	sampleDepthMax = 16
	sampleBytesMax = 64 << 10
	sampleTextMax  = 1 << 10
)

// sample makes a document that keeps to a JSON Schema and has to do with the text. It
// knows the parts of JSON Schema that structured outputs allow.
func sample(schema gjson.Result, text string) string {
	if len(text) > sampleTextMax {
		text = strings.ToValidUTF8(text[:sampleTextMax], "")
	}
	return string(appendSample(nil, schema, schema, text, 0))
}

func appendSample(dst []byte, root, schema gjson.Result, text string, depth int) []byte {
	if depth > sampleDepthMax || len(dst) > sampleBytesMax {
		return append(dst, "null"...)
	}
	if ref, ok := strings.CutPrefix(schema.Get("$ref").Str, "#/"); ok {
		return appendSample(dst, root, root.Get(pathOf(ref)), text, depth+1)
	}
	if constant := schema.Get("const"); constant.Exists() {
		return append(dst, constant.Raw...)
	}
	if enum := schema.Get("enum"); enum.IsArray() {
		return append(dst, choose(enum.Array(), text)...)
	}
	for _, name := range []string{"anyOf", "oneOf"} {
		if first := schema.Get(name + ".0"); first.Exists() {
			return appendSample(dst, root, first, text, depth+1)
		}
	}
	kind := schema.Get("type")
	if kind.IsArray() {
		kind = kind.Get("0")
	}
	switch kind.Str {
	case "string":
		return append(dst, body.Quote(text)...)
	case "integer", "number":
		return strconv.AppendInt(dst, max(schema.Get("minimum").Int(), min(int64(len(text)), orMax(schema.Get("maximum")))), 10)
	case "boolean":
		return strconv.AppendBool(dst, digest(text)%2 == 0)
	case "null":
		return append(dst, "null"...)
	case "array":
		dst = append(dst, '[')
		for i := range max(1, schema.Get("minItems").Int()) {
			if len(dst) > sampleBytesMax {
				break
			}
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendSample(dst, root, schema.Get("items"), text, depth+1)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	first := true
	body.Visit(schema.Get("properties"), func(name, property gjson.Result) bool {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, name.Raw...), ':')
		dst = appendSample(dst, root, property, text, depth+1)
		return true
	})
	return append(dst, '}')
}

// pathOf makes a path of gjson of a JSON Pointer. It may hold anything, and a path could
// do more than point.
func pathOf(pointer string) string {
	parts := strings.Split(pointer, "/")
	for i := range parts {
		parts[i] = gjson.Escape(parts[i])
	}
	return strings.Join(parts, ".")
}

func orMax(bound gjson.Result) int64 {
	if bound.Type == gjson.Number {
		return bound.Int()
	}
	return 1<<31 - 1
}

// choose takes the value that the text names, or one that follows from the text.
func choose(values []gjson.Result, text string) string {
	if len(values) == 0 {
		return "null"
	}
	lower := strings.ToLower(text)
	for _, value := range values {
		if value.Str != "" && strings.Contains(lower, strings.ToLower(value.Str)) {
			return value.Raw
		}
	}
	return values[digest(text)%uint32(len(values))].Raw
}
