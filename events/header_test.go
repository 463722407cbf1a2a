package events_test

import (
	"errors"
	"maps"
	"net/textproto"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
)

var bindings = map[string]events.Binding{"nats": events.NATS, "http": events.HTTP, "kafka": events.Kafka}

// header is one name and value as a binding sends it.
type header struct{ name, value string }

func encode(b events.Binding, e *events.Event) (headers []header) {
	b.Encode(e, func(name, value string) { headers = append(headers, header{name, value}) })
	return headers
}

func decode(b events.Binding, headers []header, data []byte) (events.Event, error) {
	decoder := b.Decoder()
	for _, h := range headers {
		decoder.Header(h.name, h.value)
	}
	return decoder.Event(data)
}

// full returns an event with every attribute set, to values that need care.
func full() events.Event {
	return events.Event{
		ID: "018f-1", Source: "/shops/ä?q=%20", Type: "shop.order.place.v1", Subject: `5 % of "Öl" — ∑`,
		Time:            time.Date(2026, 11, 22, 9, 8, 7, 123456789, time.UTC),
		DataContentType: "application/json; charset=utf-8", DataSchema: "urn:schema:1", Data: []byte(`{"a":1}`),
		CorrelationID: "c-1", CausationID: "c-0", PartitionKey: "key with space",
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "a=1,b=2",
		ReplyTo: "saga.replies", Undoes: "018f-0",
		Extensions: map[string]string{"tenant": "köln", "z9": `\"`, "percent": "%41"},
	}
}

func TestBinding(t *testing.T) {
	for name, binding := range bindings {
		t.Run(name+" gives back every attribute", func(t *testing.T) {
			want := full()
			got, err := decode(binding, encode(binding, &want), want.Data)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decode(encode(e)) = %+v, %v, want %+v", got, err, want)
			}
		})
		t.Run(name+" sends headers in one order", func(t *testing.T) {
			e := full()
			first := encode(binding, &e)
			for range 20 {
				if again := encode(binding, &e); !reflect.DeepEqual(again, first) {
					t.Fatalf("order changed: %v, then %v", first, again)
				}
			}
		})
		t.Run(name+" leaves out what is not set", func(t *testing.T) {
			e := events.Event{ID: "1", Source: "/s", Type: "t"}
			if headers := encode(binding, &e); len(headers) != 4 {
				t.Errorf("headers = %v, want specversion, id, source and type", headers)
			}
		})
		t.Run(name+" refuses an attribute that comes twice", func(t *testing.T) {
			for _, twice := range encode(binding, new(full())) {
				e := full()
				if _, err := decode(binding, append(encode(binding, &e), twice), nil); !errors.Is(err, events.ErrInvalid) {
					t.Errorf("second %s: error = %v, want ErrInvalid", twice.name, err)
				}
			}
		})
		t.Run(name+" passes over foreign headers", func(t *testing.T) {
			e := full()
			headers := append(encode(binding, &e), header{"Nats-Msg-Id", "%zz"}, header{"c", "\xff"}, header{"", ""})
			if got, err := decode(binding, headers, e.Data); err != nil || !reflect.DeepEqual(got, e) {
				t.Errorf("decode = %+v, %v, want %+v", got, err, e)
			}
		})
		t.Run(name+" refuses what is no CloudEvent 1.0", func(t *testing.T) {
			prefix := "ce-"
			if name == "kafka" {
				prefix = "ce_"
			}
			for what, change := range map[string]func(h map[string]string){
				"no id":                        func(h map[string]string) { delete(h, prefix+"id") },
				"no specversion":               func(h map[string]string) { delete(h, prefix+"specversion") },
				"specversion 0.3":              func(h map[string]string) { h[prefix+"specversion"] = "0.3" },
				"bad time":                     func(h map[string]string) { h[prefix+"time"] = "yesterday" },
				"extension name with a dash":   func(h map[string]string) { h[prefix+"my-ext"] = "1" },
				"extension name too long":      func(h map[string]string) { h[prefix+strings.Repeat("x", 21)] = "1" },
				"extension called data":        func(h map[string]string) { h[prefix+"data"] = "1" },
				"empty extension name":         func(h map[string]string) { h[prefix] = "1" },
				"id of 129 bytes":              func(h map[string]string) { h[prefix+"id"] = strings.Repeat("x", 129) },
				"value that is not UTF-8":      func(h map[string]string) { h[prefix+"subject"] = "\xc3\x28" },
				"content type that is no text": func(h map[string]string) { h["content-type"], h["ce-datacontenttype"] = "\xff", "%FF" },
			} {
				headers := map[string]string{prefix + "specversion": "1.0", prefix + "id": "1", prefix + "source": "/s", prefix + "type": "t"}
				change(headers)
				decoder := binding.Decoder()
				for n, v := range headers {
					decoder.Header(n, v)
				}
				if e, err := decoder.Event(nil); !errors.Is(err, events.ErrInvalid) {
					t.Errorf("%s: decoded %+v, %v, want ErrInvalid", what, e, err)
				}
			}
		})
	}

	t.Run("nats and http compare names without regard to case", func(t *testing.T) {
		for _, name := range []string{"nats", "http"} {
			e := full()
			headers := encode(bindings[name], &e)
			for i := range headers {
				headers[i].name = textproto.CanonicalMIMEHeaderKey(headers[i].name)
			}
			if got, err := decode(bindings[name], headers, e.Data); err != nil || !reflect.DeepEqual(got, e) {
				t.Errorf("%s: decode = %+v, %v", name, got, err)
			}
		}
	})
	t.Run("kafka compares names as they are", func(t *testing.T) {
		if _, err := decode(events.Kafka, []header{{"CE_ID", "1"}, {"ce_specversion", "1.0"}, {"ce_source", "/s"}, {"ce_type", "t"}}, nil); err == nil {
			t.Error("CE_ID was taken for ce_id")
		}
	})
	t.Run("http carries the content type in Content-Type alone", func(t *testing.T) {
		e := full()
		headers := append(encode(events.HTTP, &e), header{"ce-datacontenttype", "text/plain"})
		if _, err := decode(events.HTTP, headers, nil); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("error = %v, want ErrInvalid: the event has two content types", err)
		}
	})
	t.Run("nats and http headers are printable ASCII without spaces or quotes", func(t *testing.T) {
		e := full()
		for _, h := range encode(events.NATS, &e) {
			if strings.ContainsFunc(h.value, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }) {
				t.Errorf("header %s: %q", h.name, h.value)
			}
		}
	})
	t.Run("kafka values are UTF-8 as they are", func(t *testing.T) {
		e := full()
		values := maps.Collect(func(yield func(string, string) bool) {
			for _, h := range encode(events.Kafka, &e) {
				yield(h.name, h.value)
			}
		})
		if values["ce_subject"] != e.Subject || values["ce_percent"] != "%41" {
			t.Errorf("subject %q, percent %q", values["ce_subject"], values["ce_percent"])
		}
	})
}
