package events_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
)

const (
	tripID  = "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f"
	traceID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)

// FuzzCodecs: what passes Validate comes back from every binding and from the
// outbox form unchanged.
func FuzzCodecs(f *testing.F) {
	f.Add("1", "/s", "t", "", "", "", "ext", "value", int64(0), []byte(nil))
	e := full()
	f.Add(e.ID, e.Source, e.Type, e.Subject, e.DataContentType, e.DataSchema, "tenant", `köln "%`, e.Time.UnixNano(), e.Data)
	f.Add("\x00", "\r\n", "é", "\u0085", "a;b=\"c\"", "\xff", "id", "", int64(1)<<62, []byte{0})
	f.Add(tripID, tripID, tripID, tripID, "application/json", "saga.replies", "tenantid", tripID, int64(-1), []byte("{}"))
	f.Add("1", "/s", "t", traceID, "application/json", traceID[:54], "expirytime", traceID, int64(1), []byte("{}"))
	for _, value := range []string{"é", "%", "%41", `"`, `\"`, "\t\r\n\x7f", "Euro € 😀", strings.Repeat("x", 64<<10), strings.Repeat("é%", 2<<10)} {
		f.Add(value, "/s", "t", value, "application/json", "", "tenant", value, int64(7), []byte(value))
		f.Add("1", "/s", "t", "", "", "", "tenant", value, int64(7), bytes.Repeat([]byte(value), 1+64<<10/len(value)))
	}
	f.Fuzz(func(t *testing.T, id, source, typ, subject, contentType, schema, name, value string, at int64, data []byte) {
		want := events.Event{
			ID: id, Source: source, Type: typ, Subject: subject, DataContentType: contentType, DataSchema: schema,
			Time: time.Unix(0, at).UTC(), Data: data, PartitionKey: value,
		}
		if value != "" {
			want.SetExtension(name, value)
		}
		if len(data) == 0 {
			want.Data = nil
		}
		if want.Validate() != nil {
			return
		}
		for binding, b := range bindings {
			if got, err := decode(b, encode(b, &want), data); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, %v, want %+v", binding, got, err, want)
			}
		}
		if got, err := events.ParseAttributes(events.AppendAttributes(nil, &want), data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("attributes: got %+v, %v, want %+v", got, err, want)
		}
	})
}

// FuzzDecoder: whatever arrives, decoding does not panic, and what it lets
// through is valid and can be sent on.
func FuzzDecoder(f *testing.F) {
	f.Add("ce-id: 1\nce-source: /s\nce-type: t\nce-specversion: 1.0\ncontent-type: a\n", []byte("x"))
	f.Add("ce_id: %zz\nce_source: \"\\\nce_: \nce_time: 0001-01-01T00:00:00Z", []byte(nil))
	e := full()
	f.Add(string(events.AppendAttributes(nil, &e)), e.Data)
	f.Add("\x23\x01\x011\x02\x01/\x03\x01t", []byte(nil))
	for _, value := range []string{"é", "%", "%C3%A9", `"`, `"a\"b"`, "\t\x7f", strings.Repeat("x", 64<<10)} {
		f.Add("ce-id: "+value+"\nce-source: /s\nce-type: t\nce-specversion: 1.0\nce-tenant: "+value, []byte(value))
	}
	f.Fuzz(func(t *testing.T, lines string, data []byte) {
		var headers []header
		for line := range strings.SplitSeq(lines, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			headers = append(headers, header{name, value})
		}
		for binding, b := range bindings {
			e, err := decode(b, headers, data)
			if err != nil {
				continue
			}
			if err := e.Validate(); err != nil {
				t.Errorf("%s let an invalid event through: %v", binding, err)
			}
			if again, err := decode(b, encode(b, &e), e.Data); err != nil || again.ID != e.ID || !again.Time.Equal(e.Time) {
				t.Errorf("%s: sent on, it is %+v, %v", binding, again, err)
			}
		}
		if e, err := events.ParseAttributes([]byte(lines), data); err == nil {
			packed := events.AppendAttributes(nil, &e)
			if !bytes.Equal(packed, events.AppendAttributes(nil, &e)) {
				t.Error("attributes have no one form")
			}
			if again, err := events.ParseAttributes(packed, data); err != nil || !reflect.DeepEqual(again, e) {
				t.Errorf("attributes: stored anew, it is %+v, %v, want %+v", again, err, e)
			}
		}
	})
}
