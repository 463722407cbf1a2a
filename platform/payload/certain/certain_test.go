package certain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/message"

	"github.com/countermand/countermand/platform/payload/certain"
)

// compile returns the schema in a document, or why there is none.
func compile(document []byte) (*jsonschema.Schema, error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	if err := compiler.AddResource("urn:test", parsed); err != nil {
		return nil, err
	}
	return compiler.Compile("urn:test")
}

func mustCompile(t testing.TB, document string) *jsonschema.Schema {
	t.Helper()
	schema, err := compile([]byte(document))
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	return schema
}

// valid is what a checker promises, found out the long way.
func valid(schema *jsonschema.Schema, data []byte) bool {
	if !jsontext.Value(data).IsValid() { // which knows UTF-8 and names that come twice
		return false
	}
	tokens := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		token, err := tokens.ReadToken()
		if err != nil {
			break
		}
		if token.Kind() == jsontext.KindString && strings.ContainsRune(token.String(), 0) {
			return false
		}
		if token.Kind() == jsontext.KindNumber {
			// As a number alone, since an exponent may make one of a million digits.
			if f, err := json.Number(token.String()).Float64(); err != nil || f > 1<<53 || f < -1<<53 {
				return false
			}
		}
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	return err == nil && schema.Validate(document) == nil
}

func TestWhatIsCertain(t *testing.T) {
	t.Parallel()
	checkout, err := os.ReadFile("../../gateway/testdata/checkout.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat("[", 32) + strings.Repeat("]", 32)
	for _, row := range []struct {
		schema string
		passes []string
		not    []string
	}{
		{
			string(checkout),
			[]string{
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}`,
				" {\n\t\"payment\" : { \"token\":\"t\" },\r\n\"items\":[ {\"quantity\":10000,\"sku\":\"a.b\"} , {\"quantity\":1,\"sku\":\"b\"} ],\"currency\":\"EUR\",\"customer\":\"\\u0061\\nd é\"}\n",
			},
			[]string{
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}]}`,
				`{"customer":"ada","currency":"EUR","items":[],"payment":{"token":"tok_ok"}}`,
				`{"customer":"","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","currency":"EURO","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA/001","quantity":2}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2,"gift":true}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":0}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":10001}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2.0}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"ada","customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}`,
				`{"customer":"` + strings.Repeat("é", 101) + `","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}`,
			},
		},
		{
			`true`,
			[]string{`null`, `true`, `false`, `0`, `-0`, `-1.5e-3`, `999999999999999`, `""`, `"\ud83d\ude00\/"`, `[]`, `{}`, `{"a":{"a":[{}]},"b":1}`, "\t[1 , 2]\n", deep},
			[]string{
				``, ` `, `nul`, `truefalse`, `tru`, `01`, `-`, `1.`, `.5`, `1e`, `+1`, `1 2`, `[1,]`, `[1 2]`, `[`, `]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1`, `"`, `"\`, `"\x"`, `'a'`,
				"\"a\tb\"", "\"\xff\"", `"\ud800"`, `"\u0000"`, "\"\x00\"", `{"a":1,"a":2}`, `{"a":1,"b":1,"a":1}`, `9007199254740993`, `1e17`, `1e400`, "\ufeff1", "[" + deep + "]", `// x`, `[1]x`,
			},
		},
		{`false`, nil, []string{`1`, `{}`}},
		{`{"properties":{"a":false}}`, []string{`{}`, `{"b":1}`}, []string{`{"a":1}`}},
		{`{"type":"integer"}`, []string{`1`, `-5`}, []string{`1.0`, `1e2`, `"1"`, `true`}},
		{`{"type":["number","null"],"minimum":0.5,"exclusiveMaximum":4}`, []string{`1`, `3`, `0.75`, `null`, `39e-1`}, []string{`0`, `0.5`, `0.4`, `4`, `4.0`, `5`}},
		{`{"exclusiveMinimum":-1,"maximum":2.5}`, []string{`0`, `2`, `-0.5`, `2.4`, `"any"`}, []string{`-1`, `-2`, `3`, `2.6`}},
		{`{"minimum":1e30}`, []string{`"any"`}, []string{`999999999999999`}},
		{`{"minimum":-1e30,"maximum":1e30}`, []string{`1`, `1.5`}, nil},
		{`{"minLength":2,"maxLength":3}`, []string{`"ab"`, `"ééé"`, `"\u00e9\u00e9"`}, []string{`"a"`, `"é"`, `"éééé"`, `"abcd"`, `"\u00e9"`}},
		{`{"enum":["a","\u00e9",1,null,true,{"x":1}]}`, []string{`"a"`, `"é"`, `"\u0061"`, `1`, `null`, `true`}, []string{`"b"`, `1.0`, `2`, `false`, `{"x":1}`, `"1"`}},
		{`{"const":"a"}`, []string{`"a"`}, []string{`"b"`, `1`}},
		{`{"format":"uuid"}`, []string{`"5f1c2a2e-8f6c-4c57-9a3d-6f0a4d5b6c7d"`}, []string{`"5f1c2a2e"`}},
		{`{"pattern":"^[a-zé]*$"}`, []string{`""`, `"abc"`, `"abé"`}, []string{`"A"`, `"abè"`, `"ab\n"`}},
		{`{"pattern":"^[^0-9]{2,}$"}`, []string{`"ab"`, `"a\n"`, `"éé"`}, []string{`"a"`, `"é"`, `"a1"`}},
		{`{"pattern":"b"}`, []string{`"abc"`}, []string{`"ac"`}},
		{`{"pattern":"(?m)^[a]+$"}`, []string{`"a"`, `"b\naa"`}, []string{`"b"`}},
		{`{"pattern":"^(?i)[a-c]{2}$"}`, []string{`"Ab"`}, []string{`"Ad"`}},
		{`{"minItems":1,"maxItems":2,"items":{"type":"boolean"}}`, []string{`[true]`, `[true,false]`}, []string{`[]`, `[true,true,true]`, `[1]`}},
		{`{"minProperties":1,"maxProperties":2}`, []string{`{"a":1}`, `{"a":1,"b":2}`}, []string{`{}`, `{"a":1,"b":2,"c":3}`}},
		{`{"required":["a","b"],"additionalProperties":{"type":"string"}}`, []string{`{"a":"x","b":"y","c":"z"}`}, []string{`{"a":"x"}`, `{"a":"x","b":1}`, `{"a":"x","b":"y","c":1}`}},
		{`{"$ref":"#/$defs/n","$defs":{"n":{"properties":{"next":{"$ref":"#/$defs/n"},"v":{"type":"integer"}},"required":["v"]}}}`, []string{`{"v":1,"next":{"v":2}}`}, []string{`{"v":1,"next":{}}`}},
	} {
		schema := mustCompile(t, row.schema)
		checker := certain.Of(schema)
		for _, data := range row.passes {
			if !checker.Passes([]byte(data)) {
				t.Errorf("%s: %s is not certain", row.schema, data)
			}
			if !valid(schema, []byte(data)) {
				t.Errorf("%s: the test is wrong about %s", row.schema, data)
			}
		}
		for _, data := range row.not {
			if checker.Passes([]byte(data)) {
				t.Errorf("%s: %s passes", row.schema, data)
			}
		}
	}
}

func TestWhatASchemaMayNotUse(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{
		`{"not":{}}`, `{"allOf":[true]}`, `{"anyOf":[true]}`, `{"oneOf":[true]}`, `{"if":true,"then":false}`,
		`{"multipleOf":2}`, `{"uniqueItems":true}`, `{"contains":true}`, `{"prefixItems":[true]}`, `{"unevaluatedItems":false}`,
		`{"patternProperties":{"a":true}}`, `{"propertyNames":{"maxLength":1}}`, `{"unevaluatedProperties":false}`,
		`{"dependentRequired":{"a":["b"]}}`, `{"dependentSchemas":{"a":true}}`, `{"$dynamicRef":"#"}`,
		`{"$ref":"#/$defs/a","maxLength":1,"$defs":{"a":true}}`, `{"$ref":"#"}`, `{"const":1,"enum":[1]}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#"}`,
		`{"properties":{"a":{"items":{"additionalProperties":{"not":{}}}}}}`,
		`{"properties":{` + strings.TrimSuffix(strings.Repeat(`"a%":true,`, 65), ",") + `}}`,
	} {
		for i := range strings.Count(schema, "%") {
			schema = strings.Replace(schema, "%", big.NewInt(int64(i)).String(), 1)
		}
		if certain.Of(mustCompile(t, schema)).Passes([]byte(`1`)) {
			t.Errorf("%s: something is certain", schema)
		}
	}
}

// extension refuses everything.
type extension struct{}

func (extension) Validate(ctx *jsonschema.ValidatorContext, _ any) { ctx.AddError(extension{}) }
func (extension) KeywordPath() []string                            { return []string{"x"} }
func (extension) LocalizedString(*message.Printer) string          { return "no" }

func TestAnExtensionIsNotPassedOverUnlessItIsSaidToBeHarmless(t *testing.T) {
	t.Parallel()
	schema := mustCompile(t, `{"type":"integer"}`)
	schema.Extensions = []jsonschema.SchemaExt{extension{}}
	if certain.Of(schema).Passes([]byte(`1`)) {
		t.Error("it was passed over")
	}
	if !certain.Of(schema, extension{}).Passes([]byte(`1`)) {
		t.Error("it was not passed over")
	}
}

func TestAFormatIsAskedOfTextsOnly(t *testing.T) {
	t.Parallel()
	schema := mustCompile(t, `{"format":"date"}`)
	schema.Format = &jsonschema.Format{Name: "odd", Validate: func(value any) error {
		if value != "odd" {
			return errors.New("it is not odd")
		}
		return nil
	}}
	checker := certain.Of(schema)
	if !checker.Passes([]byte(`"odd"`)) || checker.Passes([]byte(`"even"`)) || checker.Passes([]byte(`2`)) {
		t.Error("what the format refuses is certain, or what it takes is not")
	}
}

func BenchmarkPasses(b *testing.B) {
	checkout, err := os.ReadFile("../../gateway/testdata/checkout.schema.json")
	if err != nil {
		b.Fatal(err)
	}
	schema := mustCompile(b, string(checkout))
	items := strings.TrimSuffix(strings.Repeat(`{"sku":"TEA-001","quantity":1},`, 28), ",")
	data := []byte(`{"customer":"ada","currency":"EUR","items":[` + items + `],"payment":{"token":"tok_ok"}}`)
	b.Run("certain", func(b *testing.B) {
		checker := certain.Of(schema)
		b.ReportAllocs()
		for b.Loop() {
			if !checker.Passes(data) {
				b.Fatal("it is not certain")
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			if err != nil || schema.Validate(document) != nil {
				b.Fatal("it is not valid")
			}
		}
	})
}
