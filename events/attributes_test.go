package events_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
)

func TestAttributes(t *testing.T) {
	t.Run("an event comes back with its data", func(t *testing.T) {
		want := full()
		got, err := events.ParseAttributes(events.AppendAttributes(nil, &want), want.Data)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	})
	t.Run("the numbers of attributes stay", func(t *testing.T) {
		want := events.Event{
			ID: "a", Source: "b", Type: "c", Subject: "d", Time: time.Unix(1, 2).UTC(), DataSchema: "e", DataContentType: "f",
			CorrelationID: "g", CausationID: "h", PartitionKey: "i", TraceParent: "j", TraceState: "k", ReplyTo: "l", Undoes: "m",
			Extensions: map[string]string{
				events.TenantExtension: "n", events.ClientExtension: "o", events.UndoesTime: "p", events.ExpiryExtension: "q", "own": "r",
			},
		}
		const stored = "330101610201620301630401648502020601650701660801670901680a01690b016a0c016b0d016c0e016d10016f12017100036f776e01720f016e110170"
		packed, err := hex.DecodeString(stored)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := events.ParseAttributes(packed, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("what is stored is read as %+v, %v, want %+v", got, err, want)
		}
		if got := hex.EncodeToString(events.AppendAttributes(nil, &want)); got != stored {
			t.Errorf("stored as %s, want %s", got, stored)
		}
	})
	t.Run("they are appended", func(t *testing.T) {
		e := full()
		if got := events.AppendAttributes([]byte("before"), &e); string(got[:6]) != "before" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("every cut is noticed", func(t *testing.T) {
		e := full()
		packed := events.AppendAttributes(nil, &e)
		for n := range packed {
			if got, err := events.ParseAttributes(packed[:n], nil); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("cut at %d: %+v, %v, want ErrInvalid", n, got, err)
			}
		}
		if got, err := events.ParseAttributes(append(packed, 0), nil); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("with a byte too much: %+v, %v, want ErrInvalid", got, err)
		}
	})
	t.Run("what is alike or an id takes little", func(t *testing.T) {
		id, of := events.NewID(), events.NewID()
		e := events.Event{
			ID: id, Source: "/s", Type: "t", Subject: of, CorrelationID: of, PartitionKey: of, CausationID: id, DataContentType: events.ContentTypeJSON,
			Time: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}
		if n := len(events.AppendAttributes(nil, &e)); n > 100 {
			t.Errorf("%d bytes, want at most 100", n)
		}
	})
	t.Run("what is almost an id, a time or a trace is kept as it is", func(t *testing.T) {
		for _, value := range []string{
			"018F3A5E-7D10-7C44-9D6C-0A1B2C3D4E5F", "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5g", "018f3a5e-7d10-7c44-9d6c_0a1b2c3d4e5f", "018f3a5e7d107c449d6c0a1b2c3d4e5f",
			"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			"00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz",
			"saga.replies", "application/json", "2026-01-02T03:04:05Z",
		} {
			want := events.Event{ID: "1", Source: value, Type: "t", Subject: "s" + value, TraceParent: value, Extensions: map[string]string{"expirytime": value, "mine": value, "tenantid": value + "'s"}}
			got, err := events.ParseAttributes(events.AppendAttributes(nil, &want), nil)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		}
	})
	t.Run("years that RFC 3339 has come back", func(t *testing.T) {
		for _, at := range []time.Time{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 1, time.UTC)} {
			want := events.Event{ID: "1", Source: "/", Type: "t", Time: at}
			got, err := events.ParseAttributes(events.AppendAttributes(nil, &want), nil)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		}
	})
	t.Run("all extensions that are allowed fit", func(t *testing.T) {
		want := full()
		for i := range events.ExtensionsMax - len(want.Extensions) {
			want.SetExtension(fmt.Sprint("x", i), strconv.Itoa(i))
		}
		got, err := events.ParseAttributes(events.AppendAttributes(nil, &want), want.Data)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		for i := range 400 {
			want.SetExtension(fmt.Sprint("more", i), "x")
			if got, err := events.ParseAttributes(events.AppendAttributes(nil, &want), nil); !errors.Is(err, events.ErrInvalid) {
				t.Fatalf("%d extensions too many: %+v, %v, want ErrInvalid", i+1, got, err)
			}
		}
	})
	t.Run("lengths that lie are refused", func(t *testing.T) {
		for _, packed := range []string{
			"\x05ce", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x", "\x80", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "",
			"\x23\x01\x011\x02\x01/\x03\x05t", "\x23\x01\x011\x02\x01/\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01t",
		} {
			if e, err := events.ParseAttributes([]byte(packed), nil); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("ParseAttributes(%q) = %+v, %v, want ErrInvalid", packed, e, err)
			}
		}
	})
}

// TestAttributesThatNobodyWrites are taken for what they are: not an event.
func TestAttributesThatNobodyWrites(t *testing.T) {
	const event = "\x01\x011\x02\x01/\x03\x01t" // id 1, source /, type t
	for name, packed := range map[string]string{
		"another format":                    "\x43" + event,
		"an attribute twice":                "\x24" + event + "\x03\x01u",
		"an extension twice":                "\x25" + event + "\x00\x01a\x011\x00\x01a\x012",
		"an extension by number and name":   "\x25" + event + "\x0f\x011\x00\x08tenantid\x012",
		"a name of an attribute":            "\x24" + event + "\x00\x02id\x011",
		"an attribute without a number":     "\x24" + event + "\x1f\x011",
		"a value of no bytes":               "\x24" + event + "\x04\x00",
		"a form that is none":               "\x24" + event + "\xe4\x00",
		"the same as itself":                "\x24" + event + "\x44\x03",
		"the same as what comes later":      "\x25" + event + "\x44\x04\x08\x01x",
		"the same as a time":                "\x25" + event + "\x85\x02\x00\x44\x03",
		"a known value that is not known":   "\x24" + event + "\x64\x09",
		"a text for the time":               "\x24" + event + "\x05\x01x",
		"a time for the subject":            "\x24" + event + "\x84\x02\x00",
		"a time twice":                      "\x25" + event + "\x85\x02\x00\x85\x02\x00",
		"a second of too many nanoseconds":  "\x24" + event + "\x85\x02\x80\x94\xeb\xdc\x03",
		"a year that RFC 3339 has not":      "\x24" + event + "\x85\x80\x80\x80\x80\x80\x20\x00",
		"a time that no time can hold":      "\x24" + event + "\x85\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00",
		"a UUID that is cut":                "\x24" + event + "\x240123456789",
		"a trace that is cut":               "\x24" + event + "\xab0123456789abcdef",
		"an attribute fewer than it counts": "\x24" + event,
		"an attribute more than it counts":  "\x22" + event,
	} {
		if e, err := events.ParseAttributes([]byte(packed), nil); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want ErrInvalid", name, e, err)
		}
	}
	if e, err := events.ParseAttributes([]byte("\x23"+event), nil); err != nil || e.ID != "1" || e.Source != "/" || e.Type != "t" {
		t.Errorf("the event alone: %+v, %v", e, err)
	}
}

func BenchmarkAttributes(b *testing.B) {
	e := full()
	packed := events.AppendAttributes(nil, &e)
	outcome := events.Event{
		ID: events.NewID(), Source: "/sagas/checkout", Type: "shop.checkout.completed.v1", Subject: events.NewID(), Time: time.Now(),
		DataContentType: events.ContentTypeJSON, CausationID: events.NewID(),
	}
	outcome.CorrelationID, outcome.PartitionKey = outcome.Subject, outcome.Subject
	b.Run("append outcome", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			packed = events.AppendAttributes(packed[:0], &outcome)
		}
	})
	stored := events.AppendAttributes(nil, &outcome)
	b.Run("parse outcome", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := events.ParseAttributes(stored, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	packed = events.AppendAttributes(nil, &e)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			packed = events.AppendAttributes(packed[:0], &e)
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := events.ParseAttributes(packed, e.Data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("validate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := e.Validate(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
