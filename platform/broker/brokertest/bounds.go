package brokertest

import (
	"errors"
	"slices"
	"testing"

	"github.com/countermand/countermand/platform/broker"
)

func (s *suite) bounds(t *testing.T) {
	r := s.rig(t)
	before := r.publish(t, slices.Concat(r.messages("a", 0, 10), r.messages("c", 0, 5))...)
	oldest, newest, err := r.Bounds(t.Context(), r.topic)
	if err != nil || len(oldest) != r.Partitions() || len(newest) != r.Partitions() {
		t.Fatalf("Bounds = %v, %v, %v", oldest, newest, err)
	}
	t.Run("before the oldest is everything", func(t *testing.T) {
		if got := len(next(t, r.read(t, oldest), 15)); got != 15 {
			t.Errorf("%d came", got)
		}
	})
	t.Run("after the newest is what comes then", func(t *testing.T) {
		for _, one := range []int{9, 14} {
			if at := newest[before[one].Partition].After; at < before[one].Offset {
				t.Errorf("the newest of partition %d is at %d, and message %d at %d", before[one].Partition, at, one, before[one].Offset)
			}
		}
		reader := r.read(t, newest)
		nothing(t, reader)
		r.publish(t, r.message("a", 10))
		if got := ids(next(t, reader, 1)); got[0] != "a-10" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("one offset tells all partitions where offsets are of one sequence", func(t *testing.T) {
		if !r.Sequenced() { // each partition has offsets of its own
			return
		}
		var last uint64
		for _, d := range next(t, r.read(t, oldest), 16) {
			if d.Offset <= last {
				t.Errorf("%s at %d comes after %d", d.Event.ID, d.Offset, last)
			}
			last = d.Offset
		}
	})
	t.Run("a topic that is none has no bounds", func(t *testing.T) {
		if _, _, err := r.Bounds(t.Context(), "missing.events"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
}
