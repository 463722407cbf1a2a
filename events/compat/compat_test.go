package compat_test

import (
	"strings"
	"testing"

	"github.com/countermand/countermand/events/compat"
	"github.com/countermand/countermand/events/schema"
	"github.com/countermand/countermand/events/shop"
)

func check(t *testing.T, kind schema.Kind, before, now string) []compat.Violation {
	t.Helper()
	const name = "test.parcel.send.v1"
	found, err := compat.Check(map[string][]byte{name: []byte(before)}, []schema.Schema{{Name: name, Kind: kind, Document: []byte(now)}})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// both says whom a change breaks: a request, and a reply or fact.
func TestChanges(t *testing.T) {
	const base = `{"type":"object","additionalProperties":false,"required":["to"],"properties":{"to":{"type":"string"},"note":{"type":"string"}}}`
	object := func(properties, required string) string {
		return `{"type":"object","additionalProperties":false,"required":[` + required + `],"properties":{` + properties + `}}`
	}
	value := func(s string) string { return object(`"v":`+s, "") }
	for name, test := range map[string]struct {
		before, now   string
		request, fact string // pointers of the violations, with spaces
	}{
		"nothing changes":                  {base, base, "", ""},
		"an optional property is added":    {base, object(`"to":{"type":"string"},"note":{"type":"string"},"weight":{"type":"integer"}`, `"to"`), "", ""},
		"a required property is added":     {base, object(`"to":{"type":"string"},"note":{"type":"string"},"weight":{"type":"integer"}`, `"to","weight"`), "/properties/weight", "/properties/weight"},
		"an optional property is removed":  {base, object(`"to":{"type":"string"}`, `"to"`), "/properties/note", ""},
		"a required property is removed":   {base, object(`"note":{"type":"string"}`, ``), "/properties/to", "/properties/to"},
		"a property becomes optional":      {base, object(`"to":{"type":"string"},"note":{"type":"string"}`, ``), "", "/properties/to"},
		"a property becomes required":      {base, object(`"to":{"type":"string"},"note":{"type":"string"}`, `"to","note"`), "/properties/note", "/properties/note"},
		"a type changes":                   {value(`{"type":"string"}`), value(`{"type":"integer"}`), "/properties/v/type", "/properties/v/type /properties/v/type"},
		"an integer becomes any number":    {value(`{"type":"integer"}`), value(`{"type":"number"}`), "", "/properties/v/type"},
		"null is allowed":                  {value(`{"type":"string"}`), value(`{"type":["string","null"]}`), "", "/properties/v/type"},
		"any value is allowed":             {value(`{"type":"string"}`), value(`true`), "", "/properties/v/type"},
		"a value is added to a list":       {value(`{"enum":["a"]}`), value(`{"enum":["a","b"]}`), "", "/properties/v/enum"},
		"a value is taken off a list":      {value(`{"enum":["a","b"]}`), value(`{"enum":["a"]}`), "/properties/v/enum", "/properties/v/enum"},
		"values are listed":                {value(`{"type":"string"}`), value(`{"type":"string","enum":["a"]}`), "/properties/v/enum", "/properties/v/enum"},
		"a constant becomes a list":        {value(`{"const":"a"}`), value(`{"enum":["a","b"]}`), "", "/properties/v/enum"},
		"a limit is raised":                {value(`{"maximum":9}`), value(`{"maximum":10}`), "", "/properties/v/maximum"},
		"a limit is lowered":               {value(`{"maximum":9}`), value(`{"maximum":8}`), "/properties/v/maximum", "/properties/v/maximum"},
		"a limit that excludes":            {value(`{"minimum":1}`), value(`{"exclusiveMinimum":1}`), "/properties/v/exclusiveMinimum", "/properties/v/exclusiveMinimum"},
		"a limit that excluded":            {value(`{"exclusiveMinimum":1}`), value(`{"minimum":1}`), "", "/properties/v/exclusiveMinimum"},
		"a length is asked for":            {value(`{"type":"string"}`), value(`{"type":"string","minLength":1}`), "/properties/v/minLength", "/properties/v/minLength"},
		"a length of nothing":              {value(`{"type":"string"}`), value(`{"type":"string","minLength":0}`), "", ""},
		"multiples are asked for":          {value(`{"multipleOf":5}`), value(`{"multipleOf":10}`), "/properties/v/multipleOf", "/properties/v/multipleOf"},
		"unique items are asked for":       {value(`{"type":"array"}`), value(`{"type":"array","uniqueItems":true}`), "/properties/v/uniqueItems", "/properties/v/uniqueItems"},
		"a pattern changes":                {value(`{"pattern":"a"}`), value(`{"pattern":"b"}`), "/properties/v/pattern", "/properties/v/pattern /properties/v/pattern"},
		"a format goes":                    {value(`{"format":"uuid"}`), value(`{}`), "", "/properties/v/format"},
		"items change":                     {value(`{"type":"array","items":{"type":"string"}}`), value(`{"type":"array","items":{"type":"integer"}}`), "/properties/v/items/type", "/properties/v/items/type /properties/v/items/type"},
		"items are asked for":              {value(`{"type":"array"}`), value(`{"type":"array","items":{"type":"string"}}`), "/properties/v/items/type", "/properties/v/items/type"},
		"the values of a map change":       {value(`{"type":"object","additionalProperties":{"type":"string"}}`), value(`{"type":"object","additionalProperties":{"type":"integer"}}`), "/properties/v/additionalProperties/type", "/properties/v/additionalProperties/type /properties/v/additionalProperties/type"},
		"a map becomes an object":          {value(`{"type":"object","additionalProperties":{"type":"string"}}`), value(`{"type":"object","additionalProperties":false,"properties":{"a":{"type":"integer"}}}`), "/properties/v/additionalProperties /properties/v/properties/a/type", "/properties/v/properties/a/type /properties/v/properties/a/type"},
		"words change":                     {`{"title":"a","description":"b","$id":"c"}`, `{"title":"x","examples":[1]}`, "", ""},
		"what cannot be judged is added":   {value(`{"type":"string"}`), value(`{"type":"string","oneOf":[{"minLength":1}]}`), "/properties/v/oneOf", "/properties/v/oneOf"},
		"what cannot be judged stays":      {value(`{"oneOf":[{"minLength":1}]}`), value(`{"oneOf":[{"minLength":1}]}`), "", ""},
		"nothing is allowed any more":      {value(`true`), value(`false`), "/properties/v/not", "/properties/v/not"},
		"behind a reference":               {`{"$ref":"#/$defs/a~1b","$defs":{"a/b":{"type":"string"}}}`, `{"$ref":"#/$defs/c","$defs":{"c":{"type":"integer"}}}`, "/type", "/type /type"},
		"behind one reference, twice":      {`{"properties":{"a":{"$ref":"#/$defs/t"},"b":{"$ref":"#/$defs/t"}},"$defs":{"t":{"type":"string"}}}`, `{"properties":{"a":{"type":"string"},"b":{"type":"integer"}}}`, "/properties/b/type", "/properties/b/type /properties/b/type"},
		"beside a reference":               {`{"$ref":"#/$defs/t","minLength":1,"$defs":{"t":{"type":"string"}}}`, `{"$ref":"#/$defs/t","minLength":2,"$defs":{"t":{"type":"string"}}}`, "/$ref", "/$ref /$ref"},
		"words beside a reference":         {`{"$ref":"#/$defs/t","title":"a","$defs":{"t":{"type":"string"}}}`, `{"$ref":"#/$defs/t","$defs":{"t":{"type":"string"}}}`, "", ""},
		"behind what cannot be judged":     {`{"oneOf":[{"$ref":"#/$defs/t"}],"$defs":{"t":{"type":"string"}}}`, `{"oneOf":[{"$ref":"#/$defs/t"}],"$defs":{"t":{"type":"integer"}}}`, "/oneOf", "/oneOf /oneOf"},
		"an endless reference to anything": {`{"$ref":"#/$defs/t","$defs":{"t":{"items":{"$ref":"#/$defs/t"}}}}`, `true`, "", ""},
		"a reference to itself":            {`{"$ref":"#/$defs/t","$defs":{"t":{"properties":{"t":{"$ref":"#/$defs/t"}}}}}`, `{"$ref":"#/$defs/t","$defs":{"t":{"properties":{"t":{"$ref":"#/$defs/t"}}}}}`, "", ""},
		"a reference that leads nowhere":   {`{"type":"object"}`, `{"$ref":"https://example.com/s"}`, "", ""},
		"a property whose name is a path":  {object(`"a/b~c":{"type":"string"}`, ``), object(`"a/b~c":{"type":"integer"}`, ``), "/properties/a~1b~0c/type", "/properties/a~1b~0c/type /properties/a~1b~0c/type"},
		"a limit of a property that's new": {base, object(`"to":{"type":"string"},"note":{"type":"string"},"w":{"type":"integer","minimum":3}`, `"to"`), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, want := range map[schema.Kind]string{schema.Request: test.request, schema.Fact: test.fact, schema.Reply: test.fact} {
				var got []string
				found := check(t, kind, test.before, test.now)
				for _, v := range found {
					got = append(got, v.Pointer)
					if v.Breaks == "" || !strings.Contains(v.Mend, "test.parcel.send.v2") && !strings.Contains(v.Breaks, "nowhere") {
						t.Errorf("%s: says too little: %+v", kind, v)
					}
				}
				if name == "a reference that leads nowhere" {
					if len(found) == 0 {
						t.Errorf("%s: it was passed over", kind)
					}
					continue
				}
				if strings.Join(got, " ") != want {
					t.Errorf("%s: got %q, want %q: %v", kind, got, want, found)
				}
			}
		})
	}
}

func TestContractsThatComeAndGo(t *testing.T) {
	document := []byte(`{"type":"object"}`)
	before := map[string][]byte{"a.b.do.v1": document, "a.b.do.v1.reply": document, "a.b.ask.v1": document, "a.b.done.v1": document}
	now := []schema.Schema{
		{Name: "a.b.do.v1", Kind: schema.Request, Document: document},
		{Name: "a.b.ask.v1", Kind: schema.Request, Document: document},
		{Name: "a.b.ask.v1.reply", Kind: schema.Reply, Document: document},
		{Name: "a.b.new.v1", Kind: schema.Request, Document: document},
		{Name: "a.b.new.v1.reply", Kind: schema.Reply, Document: document},
	}
	found, err := compat.Check(before, now)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range found {
		got = append(got, v.Contract)
	}
	if strings.Join(got, " ") != "a.b.ask.v1.reply a.b.do.v1.reply a.b.done.v1" {
		t.Errorf("got %v", found)
	}
	if _, err := compat.Check(map[string][]byte{"a.b.do.v1": []byte("{")}, now); err == nil {
		t.Error("a schema that is no JSON has been compared")
	}
}

func TestTheShopIsCompatibleWithItself(t *testing.T) {
	all, err := schema.Of(shop.Contracts()...)
	if err != nil {
		t.Fatal(err)
	}
	before := make(map[string][]byte)
	for _, s := range all {
		before[s.Name] = s.Document
	}
	if found, err := compat.Check(before, all); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}
