package gateway

import (
	"fmt"
	"strings"
	"testing"
)

func TestViolationsInPlainWords(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ schema, document, want string }{
		{`{"type":["string","null"]}`, `1`, `[{ must be null or a string}]`},
		{`{"type":["integer","null"]}`, `1.0`, `[{ must be an integer, written without fraction and exponent}]`},
		{`{"type":["integer","number"]}`, `1.0`, `[]`},
		{`{"type":"boolean"}`, `[]`, `[{ must be a boolean}]`},
		{`{"type":"number","minimum":0.5}`, `0`, `[{ must be at least 0.5}]`},
		{`{"type":"integer","exclusiveMinimum":1,"multipleOf":2}`, `1`, `[{ must be a multiple of 2} { must be more than 1}]`},
		{`{"exclusiveMaximum":1}`, `1`, `[{ must be less than 1}]`},
		{`{"maxLength":1}`, `"ab"`, `[{ must have at most 1 character}]`},
		{`{"minLength":3}`, `"éé"`, `[{ must have at least 3 characters}]`},
		{`{"minProperties":1}`, `{}`, `[{ must have at least 1 field}]`},
		{`{"maxProperties":1}`, `{"a":1,"b":2}`, `[{ must have at most 1 field}]`},
		{`{"uniqueItems":true}`, `[1,2,1]`, `[{ items 0 and 2 are equal}]`},
		{`{"format":"uuid"}`, `"x"`, `[{ must be a valid uuid}]`},
		{`{"enum":["a",1,null]}`, `"b"`, `[{ must be one of "a", 1, null}]`},
		{`{"const":"a"}`, `"b"`, `[{ must be "a"}]`},
		{`{"properties":{"a/b":false}}`, `{"a/b":1}`, `[{/a~1b is not allowed}]`},
		{`{"oneOf":[{"type":"string"},{"type":"null"}]}`, `1`, `[{ has none of the allowed forms, or more than one}]`},
		{`{"anyOf":[{"type":"string"},{"type":"null"}]}`, `1`, `[{ has none of the allowed forms, or more than one}]`},
		{`{"allOf":[{"type":"string"},{"type":"null"}]}`, `1`, `[{ must be a string} { must be null}]`},
		{`{"not":{"type":"number"}}`, `1`, `[{ is not allowed}]`},
		{`{"contains":{"type":"string"}}`, `[1]`, `[{ breaks the rule "contains" of its schema}]`},
		{`{"dependentRequired":{"a":["b"]}}`, `{"a":1}`, `[{/b is required when "a" is given}]`},
		{`{"$ref":"#/$defs/q","$defs":{"q":{"type":"object","required":["n"]}}}`, `{}`, `[{/n is required}]`},
		{
			`{"items":{"$ref":"#/$defs/q"},"$defs":{"q":{"type":"integer"}}}`, `[1,2.0,3e0]`,
			`[{/1 must be an integer, written without fraction and exponent} {/2 must be an integer, written without fraction and exponent}]`,
		},
	} {
		c, err := compileContract(Command{Type: "shop.order.do.v1", Topic: "shop.commands", Schema: []byte(row.schema)})
		if err != nil {
			t.Fatal(err)
		}
		document, fault := decodeStrict([]byte(row.document))
		if fault != nil {
			t.Fatal(fault)
		}
		if got, _ := c.check(document); fmt.Sprint(got) != row.want {
			t.Errorf("%s of %s: got %v, want %s", row.document, row.schema, got, row.want)
		}
	}
}

// FuzzCertain checks that what is taken without decoding it would have been taken after
// decoding it as well.
func FuzzCertain(f *testing.F) {
	c, err := compileContract(Command{Type: "shop.order.do.v1", Topic: "shop.commands", Schema: []byte(`{
		"properties":{"n":{"type":"integer","minimum":-3},"x":{"type":"number","maximum":2.5},"t":{"type":"string","maxLength":3,"pattern":"^[a-zé]*$"},
		"list":{"items":{"type":["integer","null"]}}},"required":["n"]}`)})
	if err != nil {
		f.Fatal(err)
	}
	taken := 0
	for _, seed := range []string{
		`{"n":1,"x":2.25,"t":"aé","list":[1,null],"more":{"a":[true,"\u00e9",-0.5e3]}}`, `{"n":1.0}`, `{"n":-4}`, `{"n":1,"n":2}`, `{"n":1,"m":9007199254740993}`,
		`{"n":1,"m":"\u0000"}`, "{\"n\":1,\"m\":\"\xff\"}", `{"n":1,"x":2.5}`, strings.Repeat(`{"n":1,"m":`, 70) + `{"n":1}` + strings.Repeat("}", 70),
	} {
		f.Add([]byte(seed))
		if c.certain.Passes([]byte(seed)) {
			taken++
		}
	}
	if taken != 1 {
		f.Fatalf("of the seeds %d are certain, want the first alone", taken)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !c.certain.Passes(data) {
			return
		}
		if _, problem := c.decode(data); problem != nil {
			t.Errorf("%q is certain, and refused after decoding: %s", data, problem.Detail)
		}
	})
}
