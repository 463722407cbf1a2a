package natsbroker

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Sheets are used again, so whatever one letter carries must be gone for the next.
func TestNothingOfALetterIsOnTheNext(t *testing.T) {
	b, _ := open(t, Config{AtomicFrom: 4})
	const publishers, rounds = 6, 40
	var mu sync.Mutex
	sent := make(map[string]events.Event)
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for r := range rounds {
				all := make([]broker.Message, 1+(p+r)%7) // some go one by one, and some together
				for i := range all {
					all[i] = message(fmt.Sprint("key", p), r*10+i)
					e := &all[i].Event
					if (r+i)%2 == 0 {
						e.CausationID, e.Subject = e.ID, "subject of "+e.ID
						e.Extensions = map[string]string{"own" + strconv.Itoa(r%5): e.ID}
					}
					mu.Lock()
					sent[e.ID] = *e
					mu.Unlock()
				}
				publish(t, b, all...)
			}
		})
	}
	publishing.Wait()
	for _, d := range next(t, read(t, b, everything(b)), len(sent)) {
		if diff := cmp.Diff(sent[d.Event.ID], d.Event); d.Malformed != nil || diff != "" {
			t.Fatalf("%s came back changed, %v: %s", d.Event.ID, d.Malformed, diff)
		}
	}
}

// What a server is told of a batch does not stay in the way when it refuses it.
func TestARefusedBatchGoesOneByOneAsSingleMessages(t *testing.T) {
	b, _ := open(t, Config{AtomicFrom: 2})
	publish(t, b, message("a", 3))
	publish(t, b, messages("a", 6)...)
	stream, err := b.js.Stream(t.Context(), streamName(topic.Domain()))
	if err != nil {
		t.Fatal(err)
	}
	for sequence := range stored(t, b) {
		raw, err := stream.GetMsg(t.Context(), sequence+1)
		if err != nil {
			t.Fatal(err)
		}
		expected := raw.Header[headerExpectedStream]
		batched := raw.Header.Get(headerBatchID) != ""
		first := !batched || raw.Header.Get(headerBatchSequence) == "1"
		if want := map[bool]int{true: 1}[first]; len(expected) != want {
			t.Errorf("message %d expects the streams %q, batched %t", sequence+1, expected, batched)
		}
	}
}
