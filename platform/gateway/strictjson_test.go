package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecodeStrict(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]any{
		`{"a":[1,-2,0.5,true,false,null,"x"]}`: map[string]any{
			"a": []any{int64(1), int64(-2), 0.5, true, false, nil, "x"},
		},
		" [] ":                        []any{},
		"{}":                          map[string]any{},
		"1.0":                         1.0,
		"1e2":                         100.0,
		"-0":                          int64(0),
		"9007199254740992":            int64(1 << 53),
		"-9007199254740992":           int64(-1 << 53),
		`"\ud83d\ude00 \u00e9"`:       "\U0001F600 é",
		strings.Repeat("[", 64) + "0": nil,
	} {
		if want == nil { // the deepest that is allowed, made whole here
			document += strings.Repeat("]", 64)
		}
		got, fault := decodeStrict([]byte(document))
		if fault != nil {
			t.Errorf("%s: %v", document, fault)
		} else if want != nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", document, got, want)
		}
	}
	for document, want := range map[string]jsonError{
		``:                      {"", -1, "the body is empty"},
		`{"a":1,"a":2}`:         {"/a", 7, `the field "a" comes twice`},
		`{"a":{"b":[0,{"c":1,`:  {"/a/b/1", 20, "the document ends too early"},
		`[9007199254740993]`:    {"/0", 17, "the number is beyond 2^53, where readers round it; send it as a string"},
		`[1e16]`:                {"/0", 5, "the number is beyond 2^53, where readers round it; send it as a string"},
		`{"a~/b":"\u0000"}`:     {"/a~0~1b", 16, "the character U+0000 is not accepted"},
		`{"\u0000":1}`:          {"/\x00", 9, "the character U+0000 is not accepted"},
		`1 2`:                   {"", 2, "there is more after the JSON document"},
		`{"a":1}]`:              {"", 7, "there is more after the JSON document"},
		`{1:2}`:                 {"", 1, "a field name must be a string"},
		strings.Repeat("[", 65): {strings.Repeat("/0", 64), 65, "the document is nested deeper than 64 levels"},
		"\xef\xbb\xbf{}":        {"", 0, `invalid character '\ufeff' at start of value`},
		`[01]`:                  {"", 2, "invalid character '1' after array element (expecting ',' or ']')"},
		`{"a":1,}`:              {"", 6, "invalid character ',' at start of value"},
		`[1 /* one */]`:         {"", 3, "invalid character '/' after array element (expecting ',' or ']')"},
		`[NaN]`:                 {"/0", 1, "invalid character 'N' at start of value"},
		"[\"a\tb\"]":            {"/0", 3, `invalid character '\t' in string (expecting non-control character)`},
		`"\ud800"`:              {"", 1, "invalid surrogate pair `\\ud800\"` in string"},
	} {
		if _, fault := decodeStrict([]byte(document)); fault == nil || *fault != want {
			t.Errorf("%q: got %+v, want %+v", document, fault, want)
		}
	}
}

// FuzzDecodeStrict checks that what is accepted means the same to Go's own
// decoder, by which the participants read it, and that nothing else is accepted.
func FuzzDecodeStrict(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-2,0.5,true,null,"x"],"b":{}}`, `{"a":1,"a":2}`, "\"\xff\"", `"\ud800"`, `9007199254740993`, `[1e400]`, `1 2`, ``, `[`, `"\u0000"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		value, fault := decodeStrict(data)
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		if fault != nil {
			if p := fault.problem(); len(p.Errors) != 1 || !utf8.ValidString(fault.Error()) && utf8.Valid(data) {
				t.Errorf("problem %+v", p)
			}
			return
		}
		if !utf8.Valid(data) {
			t.Fatalf("%q is not UTF-8", data)
		}
		var reference any
		if err := json.Unmarshal(data, &reference); err != nil {
			t.Fatalf("%q: accepted, but %v", data, err)
		}
		if !reflect.DeepEqual(numbersAsFloats(value), reference) {
			t.Errorf("%q: got %#v, want %#v", data, value, reference)
		}
	})
}

func numbersAsFloats(value any) any {
	switch v := value.(type) {
	case int64:
		if v > integerMax || v < -integerMax {
			panic(fmt.Sprintf("%d was accepted", v))
		}
		return float64(v)
	case float64:
		if math.Abs(v) > integerMax {
			panic(fmt.Sprintf("%g was accepted", v))
		}
	case []any:
		for i := range v {
			v[i] = numbersAsFloats(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = numbersAsFloats(v[name])
		}
	}
	return value
}
