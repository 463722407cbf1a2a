package events_test

import (
	"errors"
	"reflect"
	"testing"

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
	t.Run("they are appended", func(t *testing.T) {
		e := full()
		if got := events.AppendAttributes([]byte("before"), &e); string(got[:6]) != "before" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("every cut is noticed", func(t *testing.T) {
		e := full()
		packed := events.AppendAttributes(nil, &e)
		whole := 0
		for n := range packed {
			got, err := events.ParseAttributes(packed[:n], nil)
			switch {
			case err == nil && got.ID == "": // a cut between two attributes leaves a smaller event
				t.Errorf("cut at %d: %+v", n, got)
			case err == nil:
				whole++
			case !errors.Is(err, events.ErrInvalid):
				t.Errorf("cut at %d: error = %v, want ErrInvalid", n, err)
			}
		}
		if optional := len(encode(events.Kafka, &e)) - 4; whole > optional {
			t.Errorf("%d cuts gave an event, want at most one before each of %d optional attributes", whole, optional)
		}
	})
	t.Run("lengths that lie are refused", func(t *testing.T) {
		for _, packed := range []string{"\x05ce", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x", "\x80", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
			if e, err := events.ParseAttributes([]byte(packed), nil); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("ParseAttributes(%q) = %+v, %v, want ErrInvalid", packed, e, err)
			}
		}
	})
}

func BenchmarkAttributes(b *testing.B) {
	e := full()
	packed := events.AppendAttributes(nil, &e)
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
