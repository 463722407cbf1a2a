package natsbroker

import (
	"errors"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/broker"
)

func TestPublishAtomically(t *testing.T) {
	t.Run("however few", func(t *testing.T) {
		b, _ := open(t, Config{})
		for i, receipt := range b.PublishAtomically(t.Context(), messages("a", 3)) {
			if receipt.Err != nil || receipt.Offset != uint64(i+1) {
				t.Errorf("message %d: %+v", i, receipt)
			}
		}
		again := b.PublishAtomically(t.Context(), append(messages("a", 3), message("b", 0)))
		for i, receipt := range again {
			if receipt.Err != nil || receipt.Duplicate != (i < 3) {
				t.Errorf("message %d again: %+v", i, receipt)
			}
		}
	})
	t.Run("one that cannot go out keeps back those before it", func(t *testing.T) {
		b, _ := open(t, Config{})
		all := messages("a", 3)
		all[2].Event.Source = ""
		receipts := b.PublishAtomically(t.Context(), all)
		if !errors.Is(receipts[2].Err, broker.ErrRejected) || !errors.Is(receipts[0].Err, broker.ErrUnavailable) || !errors.Is(receipts[1].Err, broker.ErrUnavailable) {
			t.Errorf("receipts %+v", receipts)
		}
		if n := stored(t, b); n != 0 {
			t.Errorf("%d messages are stored", n)
		}
	})
	t.Run("a batch that the server does not take whole leaves nothing", func(t *testing.T) {
		b, _ := open(t, Config{})
		limitMessages(t, b, 2<<10)
		all := messages("a", 3)
		all[2].Event.Data = []byte(`"` + strings.Repeat("x", 4<<10) + `"`)
		for i, receipt := range b.PublishAtomically(t.Context(), all) {
			if receipt.Err == nil {
				t.Errorf("message %d: %+v", i, receipt)
			}
		}
		if n := stored(t, b); n != 0 {
			t.Errorf("%d messages are stored", n)
		}
	})
}
