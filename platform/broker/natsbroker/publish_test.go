package natsbroker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/platform/broker"
)

func TestPublishBatch(t *testing.T) {
	// Below and above the size from which batches are atomic.
	for _, atomicFrom := range []int{1, 6, 1000} {
		t.Run(fmt.Sprintf("one key keeps its order, atomic from %d", atomicFrom), func(t *testing.T) {
			b, _ := open(t, Config{AtomicFrom: atomicFrom})
			const keys, each = 7, 60
			var publishers sync.WaitGroup
			for k := range keys {
				publishers.Go(func() {
					key, random := fmt.Sprint("key", k), rand.New(rand.NewPCG(1, uint64(k)))
					for all := messages(key, each); len(all) > 0; {
						n := min(len(all), 1+random.IntN(20))
						for _, receipt := range b.PublishBatch(t.Context(), all[:n]) {
							if receipt.Err != nil {
								t.Error(receipt.Err)
							}
						}
						all = all[n:]
					}
				})
			}
			publishers.Wait()
			got := make(map[string][]string)
			offsets := make(map[int]uint64)
			for _, d := range next(t, read(t, b, everything(b)), keys*each) {
				got[d.Event.PartitionKey] = append(got[d.Event.PartitionKey], d.Event.ID)
				if d.Offset <= offsets[d.Partition] {
					t.Errorf("offset %d came after %d in partition %d", d.Offset, offsets[d.Partition], d.Partition)
				}
				offsets[d.Partition] = d.Offset
			}
			for k := range keys {
				key := fmt.Sprint("key", k)
				if want := keyIDs(key, 0, each); !slices.Equal(got[key], want) {
					t.Errorf("%s came as %v", key, got[key])
				}
			}
		})
	}

	t.Run("a batch that holds seen ids tells where the first copies are", func(t *testing.T) {
		b, _ := open(t, Config{})
		first := publish(t, b, messages("a", 10)...)
		all := messages("a", 20)
		for i, receipt := range publish(t, b, all...) {
			if seen := i < 10; receipt.Duplicate != seen || seen && receipt.Offset != first[i].Offset {
				t.Errorf("message %d: %+v, first copy %+v", i, receipt, first[min(i, 9)])
			}
		}
		if got := ids(next(t, read(t, b, everything(b)), 20)); !slices.Equal(got, keyIDs("a", 0, 20)) {
			t.Errorf("stored: %v", got)
		}
		if n := stored(t, b); n != 20 {
			t.Errorf("%d messages are stored, want 20: duplicates must not be", n)
		}
	})

	t.Run("without a publish id no copy is dropped", func(t *testing.T) {
		b, _ := open(t, Config{AtomicFrom: 2})
		one := message("a", 1)
		one.PublishID = ""
		publish(t, b, one)
		publish(t, b, one, one, one)
		if n := stored(t, b); n != 4 {
			t.Errorf("%d messages are stored, want 4", n)
		}
	})

	unsendable := map[string]func(m *broker.Message){
		"too large":                     func(m *broker.Message) { m.Event.Data = make([]byte, 2<<20) },
		"just too large with a batch":   func(m *broker.Message) { m.Event.Data = make([]byte, 1<<20+64<<10-300) },
		"an invalid event":              func(m *broker.Message) { m.Event.Type = "" },
		"a header that breaks the line": func(m *broker.Message) { m.Event.Extensions = map[string]string{"a\r\nb": "1"} },
		"a topic with wildcards":        func(m *broker.Message) { m.Topic = "test.things.*" },
	}
	for what, spoil := range unsendable {
		for _, atomicFrom := range []int{2, 1000} {
			t.Run(fmt.Sprintf("%s is rejected, what is before it is stored and nothing after, atomic from %d", what, atomicFrom), func(t *testing.T) {
				b, _ := open(t, Config{AtomicFrom: atomicFrom})
				all := messages("a", 20)
				spoil(&all[12])
				for i, receipt := range b.PublishBatch(t.Context(), all) {
					switch {
					case i < 12 && receipt.Err != nil:
						t.Errorf("message %d before it: %v", i, receipt.Err)
					case i == 12 && !errors.Is(receipt.Err, broker.ErrRejected):
						t.Errorf("message %d: error = %v, want ErrRejected", i, receipt.Err)
					case i > 12 && (!errors.Is(receipt.Err, broker.ErrUnavailable) || errors.Is(receipt.Err, broker.ErrRejected)):
						t.Errorf("message %d after it: error = %v, want ErrUnavailable", i, receipt.Err)
					}
				}
				if n := stored(t, b); n != 12 {
					t.Errorf("%d messages are stored, want 12", n)
				}
				rest := slices.Delete(all, 12, 13)
				publish(t, b, rest...)
				if got := next(t, read(t, b, everything(b)), 19); got[12].Event.ID != "a-13" {
					t.Errorf("after setting it aside: %v", ids(got))
				}
			})
		}
	}

	t.Run("a message beyond the stream's own limit is rejected, alone or in a batch", func(t *testing.T) {
		b, conn := open(t, Config{})
		limitMessages(t, b, 2000)
		all := messages("a", 20)
		all[7].Event.Data = make([]byte, 3000)
		receipts := b.PublishBatch(t.Context(), all)
		if receipts[6].Err != nil || !errors.Is(receipts[7].Err, broker.ErrRejected) || !errors.Is(receipts[8].Err, broker.ErrUnavailable) {
			t.Errorf("receipts around it: %v, %v, %v", receipts[6].Err, receipts[7].Err, receipts[8].Err)
		}
		if conn.Reconnects != 0 {
			t.Error("the connection was lost")
		}
	})

	t.Run("a stream of somebody else that has taken the subjects gets nothing", func(t *testing.T) {
		b, conn := open(t, Config{})
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteStream(t.Context(), streamName(topic.Domain())); err != nil {
			t.Fatal(err)
		}
		foreign, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "foreign", Subjects: []string{topic.Domain() + ".>"}, AllowAtomicPublish: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 20} { // by itself, and in an atomic batch
			for i, receipt := range b.PublishBatch(t.Context(), messages("a", n)) {
				if !errors.Is(receipt.Err, broker.ErrUnavailable) {
					t.Errorf("message %d of %d: %v, want ErrUnavailable", i, n, receipt.Err)
				}
			}
		}
		info, err := foreign.Info(t.Context())
		if err != nil || info.State.Msgs != 0 {
			t.Errorf("it has %d messages; %v", info.State.Msgs, err)
		}
	})
	t.Run("streams do not wait for each other", func(t *testing.T) {
		b, _ := open(t, Config{})
		if err := b.Ensure(t.Context(), "other.things.events"); err != nil {
			t.Fatal(err)
		}
		all := messages("a", 30)
		for i := range all {
			switch i % 3 {
			case 1:
				all[i].Topic = "other.things.events"
			case 2:
				all[i].Topic = "missing.things.events"
			}
		}
		for i, receipt := range b.PublishBatch(t.Context(), all) {
			if missing := i%3 == 2; errors.Is(receipt.Err, broker.ErrUnavailable) != missing {
				t.Errorf("message %d to %s: %v", i, all[i].Topic, receipt.Err)
			}
		}
	})

	t.Run("more than one atomic batch holds is published in several", func(t *testing.T) {
		b, _ := open(t, Config{})
		receipts := publish(t, b, messages("a", 2500)...)
		for i := range receipts {
			if receipts[i].Offset != uint64(i+1) {
				t.Fatalf("message %d is at %d", i, receipts[i].Offset)
			}
		}
	})

	t.Run("a full stream refuses and keeps what it has", func(t *testing.T) {
		b, _ := open(t, Config{MaxBytes: 8 << 10})
		all := messages("a", 100)
		receipts := b.PublishBatch(t.Context(), all)
		full := slices.IndexFunc(receipts, func(r broker.Receipt) bool { return r.Err != nil })
		if full < 1 || !errors.Is(receipts[full].Err, broker.ErrUnavailable) {
			t.Fatalf("message %d was the first refused", full)
		}
		for i, receipt := range receipts[full:] {
			if receipt.Err == nil {
				t.Errorf("message %d overtook message %d", full+i, full)
			}
		}
		if got := ids(next(t, read(t, b, everything(b)), full)); !slices.Equal(got, keyIDs("a", 0, full)) {
			t.Errorf("stored: %v", got)
		}
	})
}

// stored returns how many messages the topic's stream has.
func stored(t *testing.T, b *Broker) uint64 {
	t.Helper()
	info, err := b.streamInfo(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

func limitMessages(t *testing.T, b *Broker, bytes int32) {
	t.Helper()
	info, err := b.streamInfo(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	config := info.Config
	config.MaxMsgSize = bytes
	if _, err := b.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}
