package events_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/countermand/countermand/events"
)

// plain returns an event that the SDK's binary mode can carry: its header codec
// does not percent-encode (sdk-go issue 1331).
func plain() events.Event {
	e := full()
	e.Source, e.Subject, e.PartitionKey, e.DataContentType = "/shops/1", "order-7", "key", "application/json"
	e.Extensions = map[string]string{"tenant": "koeln"}
	return e
}

func TestCloudEvent(t *testing.T) {
	t.Run("an event comes back from the SDK's type", func(t *testing.T) {
		want := plain()
		ce, err := want.CloudEvent()
		if err != nil {
			t.Fatal(err)
		}
		if got := events.FromCloudEvent(ce); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("JSON data stays readable in structured mode", func(t *testing.T) {
		e := plain()
		ce, err := e.CloudEvent()
		if err != nil {
			t.Fatal(err)
		}
		structured, err := json.Marshal(ce)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Data       json.RawMessage `json:"data"`
			DataBase64 json.RawMessage `json:"data_base64"`
		}
		if err := json.Unmarshal(structured, &doc); err != nil || string(doc.Data) != `{"a":1}` || doc.DataBase64 != nil {
			t.Errorf("%s: data %s, data_base64 %s, %v", structured, doc.Data, doc.DataBase64, err)
		}
	})
	t.Run("other data survives structured mode", func(t *testing.T) {
		for _, contentType := range []string{"application/json", "application/octet-stream", ""} {
			want := plain()
			want.Data, want.DataContentType = []byte("\x00no json\xff"), contentType
			ce, err := want.CloudEvent()
			if err != nil {
				t.Fatal(err)
			}
			structured, err := json.Marshal(ce)
			if err != nil {
				t.Fatal(err)
			}
			var back cloudevents.Event
			if err := json.Unmarshal(structured, &back); err != nil {
				t.Fatalf("%s: %v", structured, err)
			}
			if got := events.FromCloudEvent(back); !bytes.Equal(got.Data, want.Data) || got.DataContentType != contentType {
				t.Errorf("%q: got %q as %q", contentType, got.Data, got.DataContentType)
			}
		}
	})
	t.Run("extensions keep their canonical form", func(t *testing.T) {
		ce := cloudevents.New()
		ce.SetID("1")
		ce.SetSource("/s")
		ce.SetType("t")
		at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
		for name, value := range map[string]any{
			"flag": true, "number": 42, "bytes": []byte{1, 2, 3}, "at": at, "uri": url.URL{Scheme: "urn", Opaque: "x"}, "partitionkey": "k",
		} {
			ce.SetExtension(name, value)
		}
		e := events.FromCloudEvent(ce)
		want := map[string]string{"flag": "true", "number": "42", "bytes": "AQID", "at": "2026-01-02T02:04:05.000000006Z", "uri": "urn:x"}
		if !reflect.DeepEqual(e.Extensions, want) || e.PartitionKey != "k" {
			t.Errorf("got %v and partition key %q, want %v and k", e.Extensions, e.PartitionKey, want)
		}
	})
	t.Run("what the SDK does not accept is an error", func(t *testing.T) {
		for what, change := range map[string]func(e *events.Event){
			"no id":               func(e *events.Event) { e.ID = "" },
			"source is no URI":    func(e *events.Event) { e.Source = "http://[" },
			"bad extension name":  func(e *events.Event) { e.Extensions = map[string]string{"no-dash": "1"} },
			"schema is no URI":    func(e *events.Event) { e.DataSchema = "%" },
			"extension is called": func(e *events.Event) { e.Extensions = map[string]string{"id": "1"} },
		} {
			e := plain()
			change(&e)
			if _, err := e.CloudEvent(); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("%s: error = %v, want ErrInvalid", what, err)
			}
		}
	})
}

// The SDK's binary mode and ours must read each other, on every protocol. Its
// protocol packages would bring more modules in, so the headers are written and read
// here, with its own conversion, under the names that each binding specification has.
func TestBinaryModeAgainstTheSDK(t *testing.T) {
	for name, names := range map[string]sdkNames{
		"http": {"ce-", "content-type"}, "nats": {"ce-", "ce-datacontenttype"}, "kafka": {"ce_", "content-type"},
	} {
		ours, want := bindings[name], plain()
		if name == "kafka" { // whose values the SDK and we leave as they are
			want.Subject, want.Extensions = `5 % of "Öl" — ∑`, map[string]string{"tenant": "köln", "percent": "%41"}
		}
		t.Run(name+": the SDK reads what we send", func(t *testing.T) {
			message := sdkMessage{sdkHeaders{names, make(map[string]string)}, want.Data}
			ours.Encode(&want, func(name, value string) { message.values[name] = value })
			ce, err := binding.ToEvent(t.Context(), message)
			if err != nil {
				t.Fatal(err)
			}
			if got := events.FromCloudEvent(*ce); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
		t.Run(name+": we read what the SDK sends", func(t *testing.T) {
			ce, err := want.CloudEvent()
			if err != nil {
				t.Fatal(err)
			}
			headers := sdkHeaders{names, make(map[string]string)}
			if _, err := binding.Write(t.Context(), binding.ToMessage(&ce), nil, headers); err != nil {
				t.Fatal(err)
			}
			decoder := ours.Decoder()
			for name, value := range headers.values {
				decoder.Header(name, value)
			}
			if got, err := decoder.Event(want.Data); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

// sdkNames are what a protocol calls headers.
type sdkNames struct{ prefix, contentType string }

func (n sdkNames) version(of string) spec.Version { return spec.WithPrefix(n.prefix).Version(of) }

// sdkHeaders is a binding.BinaryWriter into headers.
type sdkHeaders struct {
	sdkNames
	values map[string]string
}

func (h sdkHeaders) Start(context.Context) error { return nil }
func (h sdkHeaders) End(context.Context) error   { return nil }
func (h sdkHeaders) SetData(io.Reader) error     { return nil }

func (h sdkHeaders) SetAttribute(attribute spec.Attribute, value any) (err error) {
	if attribute.Kind() == spec.DataContentType {
		h.values[h.contentType], err = types.Format(value)
		return err
	}
	return h.SetExtension(attribute.Name(), value)
}

func (h sdkHeaders) SetExtension(name string, value any) (err error) {
	h.values[h.prefix+name], err = types.Format(value)
	return err
}

// sdkMessage is a binding.MessageReader on such headers.
type sdkMessage struct {
	sdkHeaders
	data []byte
}

func (m sdkMessage) ReadEncoding() binding.Encoding { return binding.EncodingBinary }
func (m sdkMessage) ReadStructured(context.Context, binding.StructuredWriter) error {
	return binding.ErrNotStructured
}

func (m sdkMessage) GetAttribute(kind spec.Kind) (spec.Attribute, any) {
	attribute := m.version(m.values[m.prefix+"specversion"]).AttributeFromKind(kind)
	return attribute, m.values[m.prefix+attribute.Name()]
}

func (m sdkMessage) GetExtension(name string) any { return m.values[m.prefix+name] }

func (m sdkMessage) ReadBinary(_ context.Context, to binding.BinaryWriter) error {
	version := m.version(m.values[m.prefix+"specversion"])
	var errs []error
	for name, value := range m.values {
		attribute := version.Attribute(name)
		switch {
		case name == m.contentType:
			errs = append(errs, to.SetAttribute(version.AttributeFromKind(spec.DataContentType), value))
		case attribute != nil:
			errs = append(errs, to.SetAttribute(attribute, value))
		default:
			errs = append(errs, to.SetExtension(strings.TrimPrefix(name, m.prefix), value))
		}
	}
	return errors.Join(append(errs, to.SetData(bytes.NewReader(m.data)))...)
}
