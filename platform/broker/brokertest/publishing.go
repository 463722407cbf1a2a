package brokertest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

func (s *suite) topics(t *testing.T) {
	t.Run("a topic can be ensured again, and with others", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.message("a", 1))
		again := r.another(t)
		if err := again.Ensure(t.Context(), r.topic, events.Topic(r.topic.Domain()+".things.events")); err != nil {
			t.Fatal(err)
		}
		if n, err := again.Backlog(t.Context(), r.topic, again.everything()); err != nil || n != 1 {
			t.Errorf("%d messages are left, %v, want 1", n, err)
		}
	})
	t.Run("a name that is no topic is refused", func(t *testing.T) {
		r := s.rig(t)
		if err := r.Ensure(t.Context(), "test.>"); err == nil {
			t.Error("a wildcard was let through")
		}
	})
	t.Run("a topic tells for how long it keeps messages", func(t *testing.T) {
		r := s.rig(t)
		if kept, err := r.Retention(t.Context(), r.topic); err != nil || kept != 7*24*time.Hour {
			t.Errorf("Retention() = %s, %v, want the default of 7 days", kept, err)
		}
		if _, err := r.Retention(t.Context(), "nowhere.things"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("of a topic that does not exist: %v, want ErrNotFound", err)
		}
	})
	t.Run("an epoch stays as long as the topic does, and a topic that is made anew has another", func(t *testing.T) {
		r := s.rig(t)
		first, err := r.Epoch(t.Context(), r.topic)
		if err != nil {
			t.Fatal(err)
		}
		r.publish(t, r.message("a", 1))
		if again, err := r.another(t).Epoch(t.Context(), r.topic); err != nil || again != first {
			t.Errorf("epoch %q, %v, want %q", again, err, first)
		}
		r.makeAnew(t)
		if again, err := r.Epoch(t.Context(), r.topic); err != nil || again == first {
			t.Errorf("epoch %q, %v, want another than %q", again, err, first)
		}
		if epoch, err := r.Epoch(t.Context(), "missing.events"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("epoch of a topic that is none: %q, %v, want ErrNotFound", epoch, err)
		}
	})
	t.Run("a server that is there answers", func(t *testing.T) {
		if err := s.rig(t).Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// makeAnew removes the topic with everything in it and makes it again.
func (r *rig) makeAnew(t *testing.T) {
	t.Helper()
	r.suite.server.Remove(t, r.topic)
	for end := time.Now().Add(patience); ; { // removing takes its time on some servers
		err := r.Ensure(t.Context(), r.topic)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (s *suite) publishing(t *testing.T) {
	t.Run("one key keeps its order under concurrent publishers", func(t *testing.T) {
		r := s.rig(t)
		const each = 120
		var keys []string
		var publishers sync.WaitGroup
		for k := range 7 {
			key, from := fmt.Sprint("key", k), r
			if k%2 == 1 {
				from = r.another(t)
			}
			keys = append(keys, key)
			publishers.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(k))) //nolint:gosec // sizes of batches
				for all := from.messages(key, 0, each); len(all) > 0; {
					n := min(len(all), 1+random.IntN(40))
					for _, receipt := range from.PublishBatch(t.Context(), all[:n]) {
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
		for _, d := range next(t, r.read(t, r.everything()), len(keys)*each) {
			got[d.Event.PartitionKey] = append(got[d.Event.PartitionKey], d.Event.ID)
			if d.Offset <= offsets[d.Partition] {
				t.Errorf("offset %d came after %d in partition %d", d.Offset, offsets[d.Partition], d.Partition)
			}
			if want := broker.Partition(d.Event.PartitionKey, r.Partitions()); d.Partition != want {
				t.Errorf("%s is in partition %d, want %d", d.Event.ID, d.Partition, want)
			}
			offsets[d.Partition] = d.Offset
		}
		inOrder(t, got, keys, each)
	})
	t.Run("receipts tell where each message is", func(t *testing.T) {
		r := s.rig(t)
		all := slices.Concat(r.messages("a", 0, 20), r.messages("b", 0, 20), r.messages("c", 0, 5))
		for i, receipt := range r.publish(t, all...) {
			got, err := r.Lookup(t.Context(), r.topic, receipt.Partition, receipt.Offset)
			if err != nil || got.Event.ID != all[i].Event.ID || got.Partition != receipt.Partition || got.Offset != receipt.Offset {
				t.Errorf("message %d: at %d/%d is %s, %v, want %s", i, receipt.Partition, receipt.Offset, got.Event.ID, err, all[i].Event.ID)
			}
		}
	})
	t.Run("a batch may be as large as the core allows", func(t *testing.T) {
		r := s.rig(t)
		all := r.messages("a", 0, broker.BatchMessagesMax)
		for i := range all {
			all[i].Event.Data = bytes.Repeat([]byte{byte(i)}, 3000) // three megabytes in all
		}
		r.publish(t, all...)
		if got := ids(next(t, r.read(t, r.everything()), len(all))); !slices.Equal(got, keyIDs("a", 0, len(all))) {
			t.Errorf("got %v", got)
		}
	})
	unsendable := map[string]func(m *broker.Message){
		"too large":              func(m *broker.Message) { m.Event.Data = make([]byte, 2*broker.MessageBytesMax) },
		"an invalid event":       func(m *broker.Message) { m.Event.Type = "" },
		"a header of many lines": func(m *broker.Message) { m.Event.Extensions = map[string]string{"a\r\nb": "1"} },
		"a topic with wildcards": func(m *broker.Message) { m.Topic = m.Topic[:len(m.Topic)-8] + "*" },
	}
	for what, spoil := range unsendable {
		t.Run(what+" is rejected, what is before it is stored and nothing of its partition after", func(t *testing.T) {
			r := s.rig(t)
			all := r.messages("a", 0, 20)
			spoil(&all[12])
			elsewhere := all[12].Topic != r.topic // and then nothing follows it there
			for i, receipt := range r.PublishBatch(t.Context(), all) {
				switch {
				case i < 12 && receipt.Err != nil:
					t.Errorf("message %d before it: %v", i, receipt.Err)
				case i == 12 && !errors.Is(receipt.Err, broker.ErrRejected):
					t.Errorf("message %d: error = %v, want ErrRejected", i, receipt.Err)
				case i > 12 && !elsewhere && (!errors.Is(receipt.Err, broker.ErrUnavailable) || errors.Is(receipt.Err, broker.ErrRejected)):
					t.Errorf("message %d after it: error = %v, want ErrUnavailable", i, receipt.Err)
				}
			}
			if err := r.insist(t.Context(), slices.Delete(all, 12, 13)[12:]); err != nil {
				t.Fatal(err)
			}
			reader := r.read(t, r.everything())
			if got, want := ids(next(t, reader, 19)), slices.Concat(keyIDs("a", 0, 12), keyIDs("a", 13, 20)); !slices.Equal(got, want) {
				t.Errorf("stored: %v", got)
			}
			if !elsewhere {
				nothing(t, reader)
			}
		})
	}
	t.Run("a topic that is none takes nothing, and others do not wait for it", func(t *testing.T) {
		r := s.rig(t)
		all := r.messages("a", 0, 20)
		for i := range all {
			if i%2 == 1 {
				all[i].Topic, all[i].Event.Data = "missing.things.events", []byte("secret")
			}
		}
		for i, receipt := range r.PublishBatch(t.Context(), all) {
			missing := i%2 == 1
			if errors.Is(receipt.Err, broker.ErrUnavailable) != missing || !missing && receipt.Err != nil {
				t.Errorf("message %d to %s: %v", i, all[i].Topic, receipt.Err)
			}
			if i == 1 && (!strings.Contains(receipt.Err.Error(), "missing.things.events") || strings.Contains(receipt.Err.Error(), "secret")) {
				t.Errorf("the error must name the topic and not the payload: %v", receipt.Err)
			}
		}
	})
}

// copies tests what becomes of messages that are published twice.
func (s *suite) copies(t *testing.T) {
	t.Run("copies are told from first ones, by any client", func(t *testing.T) {
		r := s.rig(t)
		first := r.publish(t, r.messages("a", 0, 10)...)
		for what, from := range map[string]*rig{"the same client": r, "another client": r.another(t)} {
			for i, receipt := range from.publish(t, r.messages("a", 0, 10)...) {
				if !receipt.Duplicate || receipt.Offset != first[i].Offset || receipt.Partition != first[i].Partition {
					t.Errorf("%s, message %d: %+v, first copy %+v", what, i, receipt, first[i])
				}
			}
		}
		for i, receipt := range r.publish(t, r.messages("a", 5, 15)...) {
			if copied := i < 5; receipt.Duplicate != copied || copied && receipt.Offset != first[i+5].Offset {
				t.Errorf("message %d of a batch that holds five copies: %+v", i, receipt)
			}
		}
	})
	t.Run("copies of one client are not stored", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 10)...)
		r.publish(t, r.messages("a", 0, 10)...)
		r.publish(t, r.messages("a", 5, 15)...)
		reader := r.read(t, r.everything())
		if got := ids(next(t, reader, 15)); !slices.Equal(got, keyIDs("a", 0, 15)) {
			t.Errorf("stored: %v", got)
		}
		nothing(t, reader)
	})
	t.Run("clients that publish one id at the same time agree on the first copy", func(t *testing.T) {
		r := s.rig(t)
		clients := []*rig{r, r.another(t), r.another(t)}
		var wait sync.WaitGroup
		receipts := make([]broker.Receipt, 4*len(clients))
		for i := range receipts {
			wait.Go(func() {
				receipts[i] = clients[i%len(clients)].PublishBatch(t.Context(), []broker.Message{r.message("a", 1)})[0]
			})
		}
		wait.Wait()
		firsts := 0
		for i, receipt := range receipts {
			if receipt.Err != nil || receipt.Offset != receipts[0].Offset {
				t.Errorf("publisher %d: %+v, the first one: %+v", i, receipt, receipts[0])
			}
			if !receipt.Duplicate {
				firsts++
			}
		}
		if firsts != 1 {
			t.Errorf("%d publishers believe that theirs is the first", firsts)
		}
	})
	t.Run("a publish id may be any text", func(t *testing.T) {
		r := s.rig(t)
		one := r.message("a", 1)
		offsets := make(map[uint64]string)
		for _, id := range []string{"é", "a b", "a\nb", " a b", "a b ", "a\r\nNats-Rollup: all", "%41", "A"} {
			one.PublishID = string(r.topic) + id
			receipt := r.publish(t, one)[0]
			if other, taken := offsets[receipt.Offset]; receipt.Duplicate || taken {
				t.Errorf("id %q: %+v, as %q", id, receipt, other)
			}
			offsets[receipt.Offset] = id
			if receipt := r.publish(t, one)[0]; !receipt.Duplicate {
				t.Errorf("id %q again: %+v", id, receipt)
			}
		}
	})
	t.Run("without a publish id no copy is dropped", func(t *testing.T) {
		r := s.rig(t)
		one := r.message("a", 1)
		one.PublishID = ""
		r.publish(t, one)
		for _, receipt := range r.publish(t, one, one, one) {
			if receipt.Duplicate {
				t.Errorf("%+v", receipt)
			}
		}
		reader := r.read(t, r.everything())
		next(t, reader, 4)
		nothing(t, reader)
	})
}

func (s *suite) roundTrips(t *testing.T) {
	r := s.rig(t)
	large := make([]byte, 64<<10)
	for i := range large {
		large[i] = byte(i * 7)
	}
	full := make(map[string]string)
	for n := range events.ExtensionsMax - 2 {
		full[fmt.Sprintf("attribute%d", n)] = strings.Repeat("é", events.AttributeBytesMax/2-8)
	}
	for what, e := range map[string]events.Event{
		"least":                          {},
		"no data":                        {DataContentType: "text/plain"},
		"64 KB of bytes":                 {Data: large, DataContentType: "application/octet-stream"},
		"a full megabyte":                {Data: bytes.Repeat([]byte("x"), broker.MessageBytesMax)},
		"control characters in the data": {Data: []byte("\x00\x01\r\n\t\x7f\xff")},
		"text of all kinds": {
			Subject: `100 % of "Öl", 5 %41`, TraceState: "a=1, b=2", CorrelationID: "c d", CausationID: "é", ReplyTo: "saga.replies", Undoes: "%",
			TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", DataSchema: "urn:x#ö",
			Extensions: map[string]string{"tenant": "köln \U0001f600 \\ ' ; = ,", "region": `"quoted"`, "spaces": "  a  "},
			Data:       []byte(`{"a":"é"}`), DataContentType: events.ContentTypeJSON,
		},
		"as many attributes as there may be": {Extensions: full},
	} {
		t.Run(what, func(t *testing.T) {
			e.ID, e.Source, e.Type, e.PartitionKey = "id of é %", "/test/ö", "test.things.make.v1", "key "+what
			e.Time = time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC)
			begin := time.Now()
			receipt := r.publish(t, broker.Message{Topic: r.topic, PublishID: what + string(r.topic), Event: e})[0]
			got, err := r.Lookup(t.Context(), r.topic, receipt.Partition, receipt.Offset)
			if err != nil || got.Malformed != nil {
				t.Fatal(err, got.Malformed)
			}
			if diff := cmp.Diff(e, got.Event, cmp.Comparer(sameBytes)); diff != "" {
				t.Error(diff)
			}
			if got.StoredAt.Before(begin.Add(-time.Minute)) || got.StoredAt.After(time.Now().Add(time.Minute)) {
				t.Errorf("stored at %s", got.StoredAt)
			}
		})
	}
}

// sameBytes compares data as a whole: a megabyte of it byte by byte is a second's work.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// poison stores what is no event, and expects it where it was put.
func (s *suite) poison(t *testing.T) {
	r := s.rig(t)
	partition := broker.Partition("a", r.Partitions())
	raw := [][]Header{
		nil,
		{{"ce-id", "1"}, {"ce_id", "1"}},
		{{"ce-specversion", "1.0"}, {"ce-id", "%zz"}, {"ce_specversion", "1.0"}, {"ce_id", "\xff"}, {"ce_source", "/s"}, {"ce_type", "t"}},
		{
			{"ce-specversion", "1.0"},
			{"ce-id", "1"},
			{"ce-source", "/s"},
			{"ce-type", "t"},
			{"ce-time", "noon"},
			{"ce_specversion", "1.0"},
			{"ce_id", "1"},
			{"ce_source", "/s"},
			{"ce_type", "t"},
			{"ce_time", "noon"},
		},
		{{"ce-specversion", "0.3"}, {"ce_specversion", "0.3"}},
	}
	for i, headers := range raw {
		s.server.PutRaw(t, r.topic, partition, headers, fmt.Append(nil, "raw \x00\xff ", i))
	}
	r.publish(t, r.message("a", 1))
	check := func(t *testing.T, i int, d *broker.Delivery) {
		t.Helper()
		if i == len(raw) {
			if d.Malformed != nil || d.Event.ID != "a-1" {
				t.Errorf("the event behind them: %+v", d)
			}
			return
		}
		if d.Malformed == nil || string(d.Event.Data) != fmt.Sprint("raw \x00\xff ", i) || d.Event.ID == "" || d.Partition != partition || d.Offset == 0 {
			t.Errorf("delivery %d: %+v", i, d)
		}
	}
	t.Run("a reader delivers it as such, in its place", func(t *testing.T) {
		seen := make(map[string]bool)
		for i, d := range next(t, r.read(t, r.everything()), len(raw)+1) {
			check(t, i, &d)
			seen[d.Event.ID] = true
		}
		if len(seen) != len(raw)+1 {
			t.Errorf("ids %v are not all different", seen)
		}
	})
	t.Run("a group does, and goes on behind it", func(t *testing.T) {
		group := r.subscribe(t, "g")
		for i := range len(raw) + 1 {
			d := take(t, group)
			check(t, i, &d.Delivery)
			ack(t, d)
		}
	})
}
