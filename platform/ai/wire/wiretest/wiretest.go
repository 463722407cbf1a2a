// Package wiretest runs exchanges in tests.
package wiretest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// Object parses a request.
func Object(t testing.TB, text string) *body.Object {
	t.Helper()
	o, err := body.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

// SameJSON reports a difference between two documents, whatever the order of their
// members.
func SameJSON(t testing.TB, what string, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Errorf("%s: %v in %s", what, err, got)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%s: the wanted document: %v", what, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
	}
}

// Play runs the frames of an upstream through a stream and returns those of the
// client.
func Play(t testing.TB, s wire.Stream, frames string) ([]sse.Event, error) {
	t.Helper()
	var out []byte
	reader := sse.NewReader(strings.NewReader(frames), 1<<20)
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return Events(t, out), nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if out, err = s.Event(out, e); err != nil {
			return Events(t, out), err
		}
	}
}

// Raw joins the frames of events.
func Raw(events []sse.Event) string {
	var b strings.Builder
	for _, e := range events {
		b.Write(e.Raw)
	}
	return b.String()
}

// Events reads frames.
func Events(t testing.TB, frames []byte) (events []sse.Event) {
	t.Helper()
	reader := sse.NewReader(bytes.NewReader(frames), 1<<20)
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Data, e.Raw = bytes.Clone(e.Data), bytes.Clone(e.Raw)
		events = append(events, e)
	}
}
