package events_test

import (
	"reflect"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"github.com/countermand/countermand/events"
)

// The events that the CloudEvents specification and its bindings show as examples,
// in version 1.0.2.
func TestTheSpecificationsOwnExamples(t *testing.T) {
	example := events.Event{
		ID: "1234-1234-1234", Source: "/mycontext/subcontext", Type: "com.example.someevent",
		Time: time.Date(2018, 4, 5, 3, 56, 24, 0, time.UTC), Data: []byte("..."),
	}
	for name, test := range map[string]struct {
		binding     events.Binding
		contentType string
		headers     []header
	}{
		"HTTP, 3.1.4": {events.HTTP, "application/json; charset=utf-8", []header{
			{"Content-Type", "application/json; charset=utf-8"},
			{"ce-specversion", "1.0"},
			{"ce-type", "com.example.someevent"},
			{"ce-time", "2018-04-05T03:56:24Z"},
			{"ce-id", "1234-1234-1234"},
			{"ce-source", "/mycontext/subcontext"},
		}},
		"Kafka, 3.2.5": {events.Kafka, "application/avro", []header{
			{"ce_specversion", "1.0"},
			{"ce_type", "com.example.someevent"},
			{"ce_source", "/mycontext/subcontext"},
			{"ce_id", "1234-1234-1234"},
			{"ce_time", "2018-04-05T03:56:24Z"},
			{"content-type", "application/avro"},
		}},
		"NATS, binary mode": {events.NATS, "application/json", []header{
			{"ce-specversion", "1.0"},
			{"ce-type", "com.example.someevent"},
			{"ce-time", "2018-04-05T03:56:24Z"},
			{"ce-id", "1234-1234-1234"},
			{"ce-source", "/mycontext/subcontext"},
			{"ce-datacontenttype", "application/json"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := example
			want.DataContentType = test.contentType
			if got, err := decode(test.binding, test.headers, want.Data); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
	t.Run("HTTP, 3.1.3.2: percent-encoding", func(t *testing.T) {
		const text, encoded = "Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"
		if got := events.PercentEncode(text); got != encoded {
			t.Errorf("encoded %q, want %q", got, encoded)
		}
		for _, value := range []string{encoded, `"` + encoded + `"`, "Euro%20%e2%82%ac%20%f0%9f%98%80"} {
			if got, err := events.PercentDecode(value); err != nil || got != text {
				t.Errorf("%q is decoded to %q, %v", value, got, err)
			}
		}
	})
	for name, test := range map[string]struct {
		document string
		want     events.Event
	}{
		"JSON format, 3.2: JSON data": {`{
			"specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "subject": null,
			"id": "C234-1234-1234", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value",
			"comexampleothervalue": 5, "datacontenttype": "application/json",
			"data":{"appinfoA": "abc", "appinfoB": 123, "appinfoC": true}}`, events.Event{
			ID: "C234-1234-1234", Source: "/mycontext", Type: "com.example.someevent", Time: time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC),
			DataContentType: "application/json", Data: []byte(`{"appinfoA": "abc", "appinfoB": 123, "appinfoC": true}`),
			Extensions: map[string]string{"comexampleextension1": "value", "comexampleothervalue": "5"},
		}},
		"JSON format, 3.2: binary data": {`{
			"specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "id": "D234-1234-1234",
			"time": "2018-04-05T17:31:00Z", "comexampleextension1": "value", "comexampleothervalue": 5,
			"datacontenttype": "application/vnd.apache.thrift.binary", "data_base64": "YWJj"}`, events.Event{
			ID: "D234-1234-1234", Source: "/mycontext", Type: "com.example.someevent", Time: time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC),
			DataContentType: "application/vnd.apache.thrift.binary", Data: []byte("abc"),
			Extensions: map[string]string{"comexampleextension1": "value", "comexampleothervalue": "5"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var ce cloudevents.Event
			if err := ce.UnmarshalJSON([]byte(test.document)); err != nil {
				t.Fatal(err)
			}
			got := events.FromCloudEvent(ce)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			again, err := got.CloudEvent()
			if err != nil {
				t.Fatal(err)
			}
			document, err := again.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			var back cloudevents.Event
			if err := back.UnmarshalJSON(document); err != nil {
				t.Fatal(err)
			}
			if got.ID != events.FromCloudEvent(back).ID || !reflect.DeepEqual(events.FromCloudEvent(back).Extensions, test.want.Extensions) {
				t.Errorf("sent on, it is %s", document)
			}
		})
	}
}
