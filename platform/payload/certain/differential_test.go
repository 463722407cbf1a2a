package certain_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/countermand/countermand/platform/payload/certain"
)

// FuzzPasses looks for a document that passes and is not valid.
func FuzzPasses(f *testing.F) {
	for schema, document := range map[string]string{
		`{"type":"object","properties":{"a":{"type":"integer","minimum":1}},"required":["a"],"additionalProperties":false}`: `{"a":1}`,
		`{"items":{"type":"string","pattern":"^[a-z]{2,3}$","maxLength":2}}`:                                                `["ab","cd\u0065"]`,
		`{"type":["number","null"],"exclusiveMinimum":0.1,"maximum":7}`:                                                     `0.25`,
		`{"enum":["a",1,null,true],"minLength":1}`:                                                                          `"a"`,
		`{"$ref":"#/$defs/a","$defs":{"a":{"additionalProperties":{"format":"date-time"},"minProperties":1}}}`:              `{"at":"2026-11-22T10:00:00Z"}`,
		`true`: ` [{"x":[1,2.5e3,"\ud83d\ude00"],"y":{}} , false]`,
	} {
		f.Add([]byte(schema), []byte(document))
	}
	f.Fuzz(func(t *testing.T, document, data []byte) {
		schema, err := compile(document)
		if err != nil {
			return
		}
		if certain.Of(schema).Passes(data) && !valid(schema, data) {
			t.Errorf("%q passes %s", data, document)
		}
	})
}

// TestWhatPassesIsValid makes schemas of what the checker knows, and documents that fit
// them more or less.
func TestWhatPassesIsValid(t *testing.T) {
	t.Parallel()
	passed, validated := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		document, err := json.Marshal(schemas(3).Draw(t, "schema"))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := compile(document)
		if err != nil {
			t.Fatalf("%s: %v", document, err)
		}
		checker := certain.Of(schema)
		for range 20 {
			data := []byte(documents(3).Draw(t, "data"))
			ok := valid(schema, data)
			if ok {
				validated++
			}
			if !checker.Passes(data) {
				continue
			}
			if passed++; !ok {
				t.Fatalf("%s passes %s", data, document)
			}
		}
	})
	if passed < validated/4 || passed == 0 {
		t.Errorf("of %d valid documents %d passed, so the checker is of little use", validated, passed)
	}
	t.Logf("of %d valid documents %d passed", validated, passed)
}

var (
	names   = []string{"a", "b", "é"}
	texts   = []string{"", "a", "ab", "abc", "é", "éa", "2026-11-22T10:00:00Z", `\u0061`, `\n`, "A", "1"}
	numbers = []string{"0", "-0", "1", "2", "-1", "10", "0.5", "1.0", "1.5", "2.5", "1e0", "-1e-1", "999999999999999", "9007199254740992", "1e15"}
)

// schemas returns schemas as deep as that.
func schemas(depth int) *rapid.Generator[map[string]any] {
	return rapid.Custom(func(t *rapid.T) map[string]any {
		schema := map[string]any{}
		maybe := func(keyword string, value func() any) {
			if rapid.IntRange(0, 5).Draw(t, keyword+"?") == 0 {
				schema[keyword] = value()
			}
		}
		number := func() any { return json.Number(rapid.SampledFrom(numbers).Draw(t, "number")) }
		length := func() any { return rapid.IntRange(0, 3).Draw(t, "length") }
		inner := func() any {
			if depth == 0 {
				return rapid.Bool().Draw(t, "bool")
			}
			return schemas(depth-1).Draw(t, "inner")
		}
		maybe("type", func() any {
			return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"null", "boolean", "integer", "number", "string", "array", "object"}), 1, 4, rapid.ID).Draw(t, "type")
		})
		maybe("enum", func() any {
			var values []any
			for _, text := range rapid.SliceOfN(scalars(), 1, 4).Draw(t, "enum") {
				values = append(values, json.RawMessage(text))
			}
			return values
		})
		for _, keyword := range []string{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} {
			maybe(keyword, number)
		}
		for _, keyword := range []string{"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"} {
			maybe(keyword, length)
		}
		maybe("pattern", func() any {
			return rapid.SampledFrom([]string{"^[a-z]+$", "^[^a]*$", "^[a-zé]{1,2}$", "^[A-Z]{2,}$", "a", "^a", "^[a]$", "(?i)^[b]+$", "^[a-z]+?$", `^\w+$`, "^.*$"}).Draw(t, "pattern")
		})
		maybe("format", func() any { return rapid.SampledFrom([]string{"date-time", "uuid", "ipv4"}).Draw(t, "format") })
		maybe("items", inner)
		maybe("additionalProperties", inner)
		maybe("required", func() any {
			return rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, "required")
		})
		maybe("properties", func() any {
			properties := map[string]any{}
			for _, name := range names[:rapid.IntRange(0, len(names)).Draw(t, "properties")] {
				properties[name] = inner()
			}
			return properties
		})
		return schema
	})
}

func scalars() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "literal")
		case 1:
			return rapid.SampledFrom(numbers).Draw(t, "number")
		}
		return `"` + rapid.SampledFrom(texts).Draw(t, "text") + `"`
	})
}

// documents returns documents as deep as that.
func documents(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		kind := rapid.IntRange(0, 3).Draw(t, "kind")
		if depth == 0 || kind < 2 {
			return scalars().Draw(t, "scalar")
		}
		space := rapid.SampledFrom([]string{"", " ", "\n\t"}).Draw(t, "space")
		parts := make([]string, rapid.IntRange(0, 3).Draw(t, "n"))
		for i := range parts {
			parts[i] = documents(depth-1).Draw(t, "part")
			if kind == 2 {
				parts[i] = fmt.Sprintf("%q%s:%s", rapid.SampledFrom(append(names, "c")).Draw(t, "name"), space, parts[i])
			}
		}
		if kind == 2 {
			return "{" + space + strings.Join(parts, space+",") + space + "}"
		}
		return "[" + space + strings.Join(parts, space+","+space) + "]" + space
	})
}
