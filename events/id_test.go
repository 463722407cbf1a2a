package events_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/countermand/countermand/events"
)

func TestNewID(t *testing.T) {
	t.Run("ids sort by the time they were made", func(t *testing.T) {
		before := events.NewID()
		for range 1000 {
			id := events.NewID()
			if id <= before {
				t.Fatalf("%s came after %s", id, before)
			}
			before = id
		}
	})
}

func TestDeriveID(t *testing.T) {
	t.Run("the same parts give the same id, in every release", func(t *testing.T) {
		// A change of this id would make commands of running sagas new commands.
		if got := events.DeriveID("018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f", "reserve-stock", "do"); got != "1af7e79e-dc20-8af4-827e-bffc82c60823" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("it is a UUIDv8", func(t *testing.T) {
		id := events.DeriveUUID("a")
		if id.Version() != 8 || id.Variant() != uuid.RFC4122 || id.String() != events.DeriveID("a") {
			t.Errorf("%s has version %d, variant %s", id, id.Version(), id.Variant())
		}
	})
	t.Run("parts are not run together", func(t *testing.T) {
		seen := make(map[string][]string)
		for _, parts := range [][]string{{}, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"a\x00b"}, {"a", "b"}, {"a", "b", ""}, {"\x01a"}, {"a", "\x01b"}} {
			id := events.DeriveID(parts...)
			if other, ok := seen[id]; ok {
				t.Errorf("%q and %q share an id", parts, other)
			}
			seen[id] = parts
		}
	})
	t.Run("long parts work", func(t *testing.T) {
		if long := string(make([]byte, 1000)); events.DeriveID(long) == events.DeriveID(long[1:]) {
			t.Error("the length of a long part does not count")
		}
	})
}
