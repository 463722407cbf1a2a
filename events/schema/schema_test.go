package schema_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/schema"
)

type parcel struct {
	To     string   `json:"to" jsonschema:"minLength=1"`
	Labels []string `json:"labels,omitempty"`
}

type sent struct {
	Number string `json:"number"`
}

type tree struct {
	Children []tree `json:"children"`
}

func TestOf(t *testing.T) {
	all, err := schema.Of(
		events.NewCommand[parcel, sent]("test.parcel.send.v1"),
		events.NewCommand[parcel, events.None]("test.parcel.drop.v1"),
		events.NewFact[sent]("test.parcel.sent.v1"),
	)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.Name+" "+string(s.Kind))
		var document struct {
			ID       string   `json:"$id"`
			Required []string `json:"required"`
		}
		if err := json.Unmarshal(s.Document, &document); err != nil || document.ID != "urn:countermand:schema:"+s.Name || len(document.Required) != 1 {
			t.Errorf("%s: %s, %v", s.Name, s.Document, err)
		}
	}
	want := "test.parcel.send.v1 request,test.parcel.send.v1.reply reply,test.parcel.drop.v1 request,test.parcel.sent.v1 fact"
	if strings.Join(got, ",") != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestATypeThatContainsItselfIsAnError(t *testing.T) {
	_, err := schema.Of(events.NewFact[tree]("test.tree.grown.v1"))
	if err == nil || !strings.Contains(err.Error(), "contains itself") {
		t.Errorf("error = %v", err)
	}
}

func TestOpenForbidsNoProperties(t *testing.T) {
	document := `{"additionalProperties":false,"properties":{"additionalProperties":{"const":false},"a":{"items":{"additionalProperties":false,"type":"object"}},
		"m":{"additionalProperties":{"additionalProperties":false}}},"examples":[{"additionalProperties":false}]}`
	want := `{"examples":[{"additionalProperties":false}],"properties":{"a":{"items":{"type":"object"}},"additionalProperties":{"const":false},"m":{"additionalProperties":{}}}}`
	if got, err := schema.Open([]byte(document)); err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if _, err := schema.Open([]byte("{")); err == nil {
		t.Error("what is no JSON has been opened")
	}
}
