package payload_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/schema"
	"github.com/countermand/countermand/platform/payload"
)

type line struct {
	SKU      string `json:"a/b" jsonschema:"minLength=1"`
	Quantity int    `json:"quantity" jsonschema:"minimum=1,maximum=9"`
}

type request struct {
	ID    string `json:"id" jsonschema:"format=uuid"`
	Lines []line `json:"lines"`
}

func validator(t *testing.T) *payload.Validator {
	t.Helper()
	schemas, err := schema.Of(events.NewCommand[request, events.None]("test.parcel.send.v1"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := payload.New(schemas...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCheck(t *testing.T) {
	v := validator(t)
	const id = `"id":"5f1c2a2e-8f6c-4c57-9a3d-6f0a4d5b6c7d"`
	for name, test := range map[string]struct {
		data string
		want []string // parts of the error; none: it passes
	}{
		"what fits passes":                    {`{` + id + `,"lines":[{"a/b":"x","quantity":1}]}`, nil},
		"what a newer sender has added":       {`{` + id + `,"lines":[{"a/b":"x","quantity":1,"gift":true}],"note":"n"}`, nil},
		"no data is for the decoder to judge": {``, nil},
		"every fault has its pointer":         {`{` + id + `,"lines":[{"a/b":"","quantity":1},{"a/b":"x","quantity":10}]}`, []string{"/lines/0/a~1b ", "/lines/1/quantity "}},
		"what is missing":                     {`{"lines":[]}`, []string{`"" `, "id"}},
		"a format":                            {`{"id":"7","lines":[]}`, []string{"/id "}},
		"what is no JSON":                     {`{`, []string{"no JSON"}},
	} {
		err := v.Check(&events.Event{Type: "test.parcel.send.v1", Data: []byte(test.data)})
		if (err == nil) != (test.want == nil) || err != nil && !errors.Is(err, payload.ErrInvalid) {
			t.Errorf("%s: error = %v", name, err)
			continue
		}
		for _, part := range test.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in %v", name, part, err)
			}
		}
	}
	if err := v.Check(&events.Event{Type: "test.unknown.do.v1", Data: []byte(`{`)}); err != nil {
		t.Errorf("a type without a schema: %v", err)
	}
	many := strings.Repeat(`{"a/b":"","quantity":0},`, 20)
	err := v.Check(&events.Event{Type: "test.parcel.send.v1", Data: fmt.Appendf(nil, `{%s,"lines":[%s]}`, id, strings.TrimSuffix(many, ","))})
	if err == nil || !strings.Contains(err.Error(), "and 30 more") {
		t.Errorf("error = %v", err)
	}
}

func TestASchemaMustBeCompleteInItself(t *testing.T) {
	_, err := payload.New(schema.Schema{Name: "a.b.v1", Document: []byte(`{"$ref":"https://example.com/s.json"}`)})
	if err == nil || !strings.Contains(err.Error(), "a.b.v1") {
		t.Errorf("error = %v", err)
	}
}
