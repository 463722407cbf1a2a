package watermillbroker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
)

func TestEventsSurviveBeingMessages(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]events.Event{
		"least": {ID: "1", Source: "/s", Type: "a.b.v1"},
		"most": {
			ID: "a b", Source: "/services/ö", Type: "shop.order.placed.v1", Subject: `100% "sure"`,
			Time: time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC), DataContentType: events.ContentTypeJSON,
			DataSchema: "urn:x", Data: []byte(`{"a":"é"}`), CorrelationID: "c", CausationID: "d", PartitionKey: "k",
			TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "v=1", ReplyTo: "saga.replies", Undoes: "u",
			Extensions: map[string]string{"region": "eu 1", "tenant": "ada"},
		},
		"an extension of that name from elsewhere": {
			ID: "1", Source: "/s", Type: "a.b.v1", Extensions: map[string]string{"watermillmetadata": "not an object"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := watermillbroker.MessageOf(&e)
			if m.UUID != e.ID || string(m.Payload) != string(e.Data) || m.Metadata["ce-type"] != e.Type {
				t.Errorf("message %q of type %q with %q", m.UUID, m.Metadata["ce-type"], m.Payload)
			}
			got, err := watermillbroker.EventOf(m)
			if err != nil {
				t.Fatal(err)
			}
			if e.Time.IsZero() { // a message without a time gets one
				got.Time = time.Time{}
			}
			if diff := cmp.Diff(e, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMessagesSurviveBeingEvents(t *testing.T) {
	t.Parallel()
	m := message.NewMessage("42", []byte("x"))
	m.Metadata.Set("correlation_id", "ö/\n")
	m.Metadata.Set("Name", "a.B")
	m.Metadata.Set("CE-Subject", "s")
	m.Metadata.Set("ce-id", "another")
	e, err := watermillbroker.EventOf(m)
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != "42" || e.Source != watermillbroker.SourceDefault || e.Type != watermillbroker.TypeDefault || e.Subject != "s" ||
		time.Since(e.Time).Abs() > time.Minute {
		t.Errorf("%+v", e)
	}
	got := watermillbroker.MessageOf(&e)
	for name, want := range map[string]string{
		"correlation_id": "ö/\n", "Name": "a.B", "ce-subject": "s", "ce-id": "42", "ce-specversion": "1.0", "ce-watermillmetadata": "",
	} {
		if got.Metadata.Get(name) != want {
			t.Errorf("metadata %s is %q, want %q", name, got.Metadata.Get(name), want)
		}
	}
	if e, err := watermillbroker.EventOf(message.NewMessage("", nil)); err != nil || len(e.ID) != 36 {
		t.Errorf("without a UUID the id is %q, %v", e.ID, err)
	}
}

func TestMessagesThatAreNoEvents(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", events.AttributeBytesMax)
	for name, m := range map[string]*message.Message{
		"long id":       message.NewMessage(long, nil),
		"much metadata": with("1", "note", long),
		"bad time":      with("1", "ce-time", "noon"),
		"bad encoding":  with("1", "ce-subject", "100%"),
		"bad name":      with("1", "ce-not_a_name", "x"),
		"bad version":   with("1", "ce-specversion", "0.3"),
	} {
		if _, err := watermillbroker.EventOf(m); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func with(id, name, value string) *message.Message {
	m := message.NewMessage(id, nil)
	m.Metadata.Set(name, value)
	return m
}
