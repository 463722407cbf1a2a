package kafkabroker

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// read decodes a batch with kafka-go, which checks its lengths and checksum.
func read(t *testing.T, b *batch) (*protocol.RecordBatch, []fetched) {
	t.Helper()
	var set protocol.RecordSet
	if _, err := set.ReadFrom(bytes.NewBuffer(b.bytes)); err != nil {
		t.Fatal(err)
	}
	stream := set.Records.(*protocol.RecordStream)
	if len(stream.Records) != 1 {
		t.Fatalf("%d batches", len(stream.Records))
	}
	records := stream.Records[0].(*protocol.RecordBatch)
	var all []fetched
	for {
		record, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return records, all
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := decode("a.b", 3, record)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
}

func TestBatch(t *testing.T) {
	messages := []broker.Message{
		{PublishID: "p1", Event: events.Event{ID: "1", Source: "/s", Type: "a.b.v1", PartitionKey: "é", Data: []byte("x"), DataContentType: "text/plain"}},
		{PublishID: "p2", Event: events.Event{ID: "2", Source: "/s", Type: "a.b.v1", Subject: "%é\"", Extensions: map[string]string{"tenant": "ö"}}},
		{Event: events.Event{ID: "3", Source: "/s", Type: "a.b.v1", Data: bytes.Repeat([]byte("data"), 50_000)}},
	}
	at := time.UnixMilli(1_700_000_000_123)
	for _, withIDs := range []bool{false, true} {
		var b batch
		for i := range messages {
			if !b.add(&messages[i], withIDs) {
				t.Fatalf("message %d does not fit", i)
			}
		}
		for _, id := range []identity{{producer: 7, epoch: 3, sequence: 41}, {producer: math.MaxInt64, epoch: math.MaxInt16, sequence: math.MaxInt32}} {
			b.seal(at, id) // as often as wanted
			records, got := read(t, &b)
			if records.ProducerID != id.producer || records.ProducerEpoch != id.epoch || records.BaseSequence != id.sequence || len(got) != len(messages) {
				t.Errorf("batch %+v of %d, want %+v", records, len(got), id)
			}
			for i, f := range got {
				if diff := cmp.Diff(messages[i].Event, f.Event); diff != "" || f.Malformed != nil {
					t.Errorf("message %d: %v\n%s", i, f.Malformed, diff)
				}
				if f.Offset != uint64(i)+1 || f.Partition != 3 || f.Topic != "a.b" || !f.StoredAt.Equal(at) {
					t.Errorf("message %d: %+v", i, f.Delivery)
				}
				if want := messages[i].PublishID; withIDs && f.publishID != want || !withIDs && f.publishID != "" {
					t.Errorf("message %d has the publish id %q", i, f.publishID)
				}
			}
		}
	}
}

func TestBatchHasALimit(t *testing.T) {
	m := broker.Message{Event: events.Event{ID: "1", Source: "/s", Type: "a.b.v1", Data: make([]byte, batchBytes/3)}}
	var b batch
	for n := range 2 {
		if !b.add(&m, false) {
			t.Fatalf("message %d does not fit", n)
		}
	}
	before := len(b.bytes)
	if b.add(&m, false) || b.count != 2 || len(b.bytes) != before {
		t.Errorf("a batch became %d bytes with %d messages", len(b.bytes), b.count)
	}
	var largest batch
	m.Event.Data = make([]byte, broker.MessageBytesMax)
	m.Event.Extensions = map[string]string{}
	for n := range events.ExtensionsMax {
		m.Event.Extensions[strings.Repeat("n", 19)+string(rune('a'+n))] = strings.Repeat("v", events.AttributeBytesMax-64)
	}
	if err := m.Event.Validate(); err != nil {
		t.Fatal(err)
	}
	if !largest.add(&m, true) || len(largest.bytes)-sizePrefix > messageBytesMax {
		t.Errorf("the largest message makes a batch of %d bytes, which a topic does not take", len(largest.bytes)-sizePrefix)
	}
}

func TestSequencesComeRound(t *testing.T) {
	for _, one := range []struct {
		at    int32
		count int
		want  int32
	}{{0, 5, 5}, {math.MaxInt32 - 1, 1, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 10, 7}} {
		if got := (identity{sequence: one.at}).after(one.count).sequence; got != one.want {
			t.Errorf("%d messages after %d comes %d, want %d", one.count, one.at, got, one.want)
		}
	}
}

// Whatever a server says about topics, it is read or refused.
func FuzzDescribe(f *testing.F) {
	f.Add((&describeRequest{topics: []string{"a.b"}}).encode())
	f.Add([]byte{0, 0, 'c', 'm', 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 4, 'a', '.', 'b'})
	f.Fuzz(func(t *testing.T, p []byte) {
		answer, err := decodeDescribe(p)
		if err == nil && answer == nil {
			t.Error("neither an answer nor an error")
		}
	})
}
