package follow_test

import (
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/follow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEncode reads what was encoded with the CloudEvents SDK.
func TestEncode(t *testing.T) {
	full := events.Event{
		ID: "a\"b\\c\u2028é", Source: "/test", Type: "test.things.made.v1", Subject: "<&>", Time: time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC),
		DataContentType: "application/json", DataSchema: "urn:schema", CorrelationID: "c", CausationID: "d", PartitionKey: "p",
		TraceParent: "00-1-2-03", Extensions: map[string]string{"tenantid": "acme", "a1": "b"}, Data: []byte("{\n \"n\": 1\n}"),
	}
	for name, c := range map[string]struct {
		change func(*events.Event)
		data   string
	}{
		"full":            {func(*events.Event) {}, `{"n":1}`},
		"no data":         {func(e *events.Event) { e.Data, e.DataContentType = nil, "" }, ""},
		"text":            {func(e *events.Event) { e.Data, e.DataContentType = []byte("a\nb"), "text/plain" }, "a\nb"},
		"binary":          {func(e *events.Event) { e.Data, e.DataContentType = []byte{0, 255}, "application/octet-stream" }, "\x00\xff"},
		"what is no json": {func(e *events.Event) { e.Data = []byte("{") }, "{"},
	} {
		t.Run(name, func(t *testing.T) {
			e := full
			c.change(&e)
			document := follow.Encode(&e)
			var sdk cloudevents.Event
			if err := sdk.UnmarshalJSON(document); err != nil {
				t.Fatalf("%s: %v", document, err)
			}
			if err := sdk.Validate(); err != nil {
				t.Errorf("%s: %v", document, err)
			}
			got := events.FromCloudEvent(sdk)
			want := e
			want.Data = nil
			if c.data != "" {
				want.Data = []byte(c.data)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n%s", document, diff)
			}
		})
	}
}

// TestEncodeJSONDialects is apart because the SDK wants a text for them, and the JSON
// format does not.
func TestEncodeJSONDialects(t *testing.T) {
	e := events.Event{ID: "1", Source: "/", Type: "a", DataContentType: "application/problem+json; charset=utf-8", Data: []byte(`{"n": 1}`)}
	want := `{"specversion":"1.0","id":"1","source":"/","type":"a","datacontenttype":"application/problem+json; charset=utf-8","data":{"n":1}}`
	if got := string(follow.Encode(&e)); got != want {
		t.Errorf("got %s", got)
	}
}

func BenchmarkEncode(b *testing.B) {
	e := events.Event{
		ID: "01a206ab-7fca-8c73-8490-b6e87ad06d6f", Source: "/services/order", Type: "shop.order.confirmed.v1", Time: time.Now(),
		DataContentType: "application/json", CorrelationID: "01a206ab-7fca-8c73-8490-b6e87ad06d6f", PartitionKey: "01a206ab-7fca-8c73-8490-b6e87ad06d6f",
		Data: []byte(`{"order_id":"01a206ab-7fca-8c73-8490-b6e87ad06d6f","customer":"ada","currency":"EUR","status":"confirmed","total":900}`),
	}
	b.ReportAllocs()
	for b.Loop() {
		follow.Encode(&e)
	}
}
