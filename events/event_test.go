package events_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
)

func TestEvent(t *testing.T) {
	t.Run("a copy keeps its extensions when the original gets more", func(t *testing.T) {
		e := full()
		copied := e
		before := maps.Clone(copied.Extensions)
		e.SetExtension("tenant", "other")
		e.SetExtension("fresh", "1")
		if !maps.Equal(copied.Extensions, before) {
			t.Errorf("copy has %v, want %v", copied.Extensions, before)
		}
		if e.Extension("tenant") != "other" || e.Extension("fresh") != "1" {
			t.Errorf("original has %v", e.Extensions)
		}
	})
	t.Run("known extensions are the plain fields", func(t *testing.T) {
		var e events.Event
		for _, name := range []string{"correlationid", "causationid", "partitionkey", "traceparent", "tracestate", "replyto", "undoes"} {
			e.SetExtension(name, name)
			if e.Extension(name) != name {
				t.Errorf("Extension(%q) = %q", name, e.Extension(name))
			}
		}
		want := events.Event{
			CorrelationID: "correlationid", CausationID: "causationid", PartitionKey: "partitionkey",
			TraceParent: "traceparent", TraceState: "tracestate", ReplyTo: "replyto", Undoes: "undoes",
		}
		if fmt.Sprint(e) != fmt.Sprint(want) {
			t.Errorf("got %+v, want %+v", e, want)
		}
	})
	t.Run("it is ordered by its partition key, else by itself", func(t *testing.T) {
		e := events.Event{ID: "1"}
		if e.Key() != "1" {
			t.Errorf("Key() = %q, want the id", e.Key())
		}
		e.PartitionKey = "k"
		if e.Key() != "k" {
			t.Errorf("Key() = %q, want the partition key", e.Key())
		}
	})
}

func TestValidate(t *testing.T) {
	valid := func() events.Event { return events.Event{ID: "1", Source: "/s", Type: "t"} }
	t.Run("a valid event passes, at no cost", func(t *testing.T) {
		e := full()
		e.ID, e.Type = strings.Repeat("i", events.IDBytesMax), strings.Repeat("t", events.TypeBytesMax)
		e.Source, e.TraceState = strings.Repeat("s", events.AttributeBytesMax), strings.Repeat("x", events.AttributeBytesMax)
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { _ = e.Validate() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
	for what, change := range map[string]func(e *events.Event){
		"no id":                     func(e *events.Event) { e.ID = "" },
		"no source":                 func(e *events.Event) { e.Source = "" },
		"no type":                   func(e *events.Event) { e.Type = "" },
		"long id":                   func(e *events.Event) { e.ID = strings.Repeat("x", events.IDBytesMax+1) },
		"long type":                 func(e *events.Event) { e.Type = strings.Repeat("x", events.TypeBytesMax+1) },
		"long source":               func(e *events.Event) { e.Source = strings.Repeat("x", events.AttributeBytesMax+1) },
		"long subject":              func(e *events.Event) { e.Subject = strings.Repeat("x", events.AttributeBytesMax+1) },
		"long content type":         func(e *events.Event) { e.DataContentType = strings.Repeat("x", events.AttributeBytesMax+1) },
		"long data schema":          func(e *events.Event) { e.DataSchema = strings.Repeat("x", events.AttributeBytesMax+1) },
		"long replyto":              func(e *events.Event) { e.ReplyTo = strings.Repeat("x", events.AttributeBytesMax+1) },
		"long extension":            func(e *events.Event) { e.SetExtension("x", strings.Repeat("x", events.AttributeBytesMax+1)) },
		"NUL":                       func(e *events.Event) { e.ID = "a\x00b" },
		"line break":                func(e *events.Event) { e.Subject = "a\r\nce-id: 2" },
		"DEL":                       func(e *events.Event) { e.PartitionKey = "\x7f" },
		"C1 control":                func(e *events.Event) { e.Source = "\u0085" },
		"noncharacter":              func(e *events.Event) { e.Subject = "\ufdd0" },
		"noncharacter of plane 1":   func(e *events.Event) { e.Subject = "\U0001fffe" },
		"not UTF-8":                 func(e *events.Event) { e.Subject = "\xc3\x28" },
		"an encoded surrogate":      func(e *events.Event) { e.Subject = "\xed\xa0\x80" },
		"content type line break":   func(e *events.Event) { e.DataContentType = "a\nb" },
		"extension name upper-case": func(e *events.Event) { e.Extensions = map[string]string{"Tenant": "1"} },
		"extension name empty":      func(e *events.Event) { e.Extensions = map[string]string{"": "1"} },
		"extension id":              func(e *events.Event) { e.Extensions = map[string]string{"id": "2"} },
		"extension data":            func(e *events.Event) { e.Extensions = map[string]string{"data": "2"} },
		"extension of a field":      func(e *events.Event) { e.Extensions = map[string]string{"replyto": "2"} },
		"extension line break":      func(e *events.Event) { e.Extensions = map[string]string{"x": "\n"} },
		"year 10000":                func(e *events.Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"too many extensions": func(e *events.Event) {
			for i := range events.ExtensionsMax + 1 {
				e.SetExtension(fmt.Sprint("x", i), "1")
			}
		},
		"too much in all": func(e *events.Event) {
			for i := range events.ExtensionsMax {
				e.SetExtension(fmt.Sprint("x", i), strings.Repeat("x", events.AttributeBytesMax))
			}
		},
	} {
		t.Run(what+" is refused", func(t *testing.T) {
			e := valid()
			change(&e)
			if err := e.Validate(); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("error = %v, want ErrInvalid", err)
			}
		})
	}
	t.Run("every violation is told", func(t *testing.T) {
		e := events.Event{Subject: "\n"}
		err := e.Validate()
		for _, want := range []string{`"id"`, `"source"`, `"type"`, `"subject"`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v does not mention %s", err, want)
			}
		}
	})
}
