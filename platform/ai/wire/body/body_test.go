package body_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/ai/wire/body"
)

func TestWhatIsNotChangedKeepsItsBytes(t *testing.T) {
	const text = `{"z":1.50, "model" : "a", "new_thing":{"deep":[1,2,{"x":null}]},"big":12345678901234567890}`
	o, err := body.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(o.Bytes()); got != text {
		t.Errorf("unchanged: %s", got)
	}
	c := o.Clone()
	c.SetText("model", `b"c`)
	c.Set("stream", "true")
	c.Delete("z")
	want := `{"model":"b\"c","new_thing":{"deep":[1,2,{"x":null}]},"big":12345678901234567890,"stream":true}`
	if got := string(c.Bytes()); got != want {
		t.Errorf("changed:\n%s\nwant\n%s", got, want)
	}
	if got := string(o.Bytes()); got != text {
		t.Errorf("the change of a clone reached its original: %s", got)
	}
	if c.Get("z").Exists() || c.Get("model").Str != `b"c` {
		t.Error("the clone does not tell what was changed")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a name twice":              `{"model":"cheap","model":"dear"}`,
		"twice, in escapes":         `{"model":"cheap","mod\u0065l":"dear"}`,
		"twice, in another case":    `{"model":"cheap","Model":"dear"}`,
		"no object":                 `[1]`,
		"a cut document":            `{"model":"a"`,
		"something after it":        `{"model":"a"}{}`,
		"nesting that eats a stack": strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
		"nothing":                   ``,
	} {
		if _, err := body.Parse([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"model":"a","messages":[{"role":"user","content":"x"}]}`))
	f.Add([]byte(`{"a":"\u0000\"","b":[[[]]],"c":-1e9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := body.Parse(data)
		if err != nil {
			return
		}
		o.SetText("model", "m")
		var got map[string]any
		if err := json.Unmarshal(o.Bytes(), &got); err != nil {
			t.Fatalf("%q became %q: %v", data, o.Bytes(), err)
		}
		if got["model"] != "m" {
			t.Fatalf("%q: model is %v", data, got["model"])
		}
	})
}
