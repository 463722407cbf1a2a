package kafkatest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
)

// Other clients read what we write by the Kafka binding of CloudEvents, and find
// it where they would have put it.
func TestOtherClientsReadOurEvents(t *testing.T) {
	s := start(t)
	b := plain(t, s.Addr())
	m := message("key é", 1)
	m.Event.Subject, m.Event.DataContentType, m.Event.CorrelationID = `100 % "ö"`, "application/json", "c"
	m.Event.Time = time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC)
	m.Event.SetExtension("tenant", "köln")
	empty := message("key é", 2)
	empty.Event.Data = nil
	receipts := publish(t, b, m, empty)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Addr()), kgo.ConsumeTopics(string(topic)), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var records []*kgo.Record
	for len(records) < 2 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		records = append(records, fetches.Records()...)
	}
	r := records[0]
	headers := make(map[string]string)
	for _, header := range r.Headers {
		headers[header.Key] = string(header.Value)
	}
	for name, want := range map[string]string{
		"ce_specversion": "1.0", "ce_id": m.Event.ID, "ce_source": "/test", "ce_type": m.Event.Type, "ce_subject": `100 % "ö"`,
		"ce_time": "2026-11-01T12:00:00.123456789Z", "content-type": "application/json", "ce_partitionkey": "key é", "ce_tenant": "köln", "ce_correlationid": "c",
	} {
		if headers[name] != want {
			t.Errorf("the header %s is %q, want %q", name, headers[name], want)
		}
	}
	if len(r.Headers) != 10 || string(r.Key) != "key é" || string(r.Value) != "1" || r.Offset != int64(receipts[0].Offset)-1 {
		t.Errorf("record %+v", r)
	}
	if records[1].Value != nil {
		t.Errorf("no data is %q, want null", records[1].Value)
	}
	java := kgo.StickyKeyPartitioner(nil).ForTopic(string(topic))
	for n := range 100 {
		key := strings.Repeat("k", n%7) + strconv.Itoa(n)
		if ours, theirs := broker.Partition(key, b.Partitions()), java.Partition(&kgo.Record{Key: []byte(key)}, b.Partitions()); ours != theirs {
			t.Errorf("key %q belongs to partition %d here and to %d elsewhere", key, ours, theirs)
		}
	}
}

// Events of other clients, compressed as they like, are read.
func TestWeReadOtherClientsEvents(t *testing.T) {
	s := start(t)
	b := plain(t, s.Addr())
	for n, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		client, err := kgo.NewClient(kgo.SeedBrokers(s.Addr()), kgo.ProducerBatchCompression(codec))
		if err != nil {
			t.Fatal(err)
		}
		record := &kgo.Record{Topic: string(topic), Key: []byte("a"), Value: bytes.Repeat([]byte("data "), 1000), Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: fmt.Append(nil, n)},
			{Key: "ce_source", Value: []byte("/other")},
			{Key: "ce_type", Value: []byte("test.things.make.v1")},
			{Key: "content-type", Value: []byte("text/plain")},
			{Key: "unrelated", Value: []byte("x")},
		}}
		if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
	for n, d := range next(t, b, 5) {
		if d.Malformed != nil || d.Event.ID != strconv.Itoa(n) || d.Event.Source != "/other" || d.Event.DataContentType != "text/plain" || len(d.Event.Data) != 5000 {
			t.Errorf("event %d: %+v", n, d)
		}
	}
}

// The marks that end transactions are no messages.
func TestMarksOfTransactionsArePassedOver(t *testing.T) {
	s := start(t)
	b := plain(t, s.Addr())
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Addr()), kgo.TransactionalID("other"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	partition := broker.Partition("a", b.Partitions())
	for n := range 3 {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		headers := []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_id", Value: fmt.Append(nil, n)}, {Key: "ce_source", Value: []byte("/other")}, {Key: "ce_type", Value: []byte("test.things.make.v1")},
		}
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: string(topic), Partition: int32(partition), Headers: headers}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, message("a", 3))
	for n, d := range next(t, b, 4) {
		if want := []string{"0", "1", "2", "a-3"}[n]; d.Event.ID != want || d.Malformed != nil {
			t.Errorf("delivery %d is %s, %v, want %s", n, d.Event.ID, d.Malformed, want)
		}
	}
	group := subscribe(t, b, "g")
	for _, want := range []string{"0", "1", "2", "a-3"} {
		d := take(t, group)
		if d.Event.ID != want {
			t.Errorf("the group got %s, want %s", d.Event.ID, want)
		}
		ack(t, d)
	}
}

// What was deleted for its age cannot be read. The log says so.
func TestDeletedMessagesAreSkippedAloud(t *testing.T) {
	s := start(t)
	log := &lockedBuffer{}
	b := plain(t, s.Addr(), func(c *kafkabroker.Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	receipts := publish(t, b, messages("a", 0, 20)...)
	partition := receipts[0].Partition
	deleteBefore(t, s.Addr(), partition, 10)
	for _, from := range []uint64{0, 5} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		reader, err := b.Read(ctx, topic, map[int]broker.Start{partition: {After: from}})
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		got, err := reader.Next(ctx, 1)
		if err != nil || got[0].Event.ID != "a-10" {
			t.Errorf("after %d came %v, %v, want a-10", from, got, err)
		}
		if said := strings.Contains(log.String(), "deleted before they were read"); said != (from > 0) {
			t.Errorf("after %d the log says:\n%s", from, log)
		}
	}
	if n, err := b.Backlog(t.Context(), topic, everything(b)); err != nil || n != 10 {
		t.Errorf("the backlog is %d, %v, want 10", n, err)
	}
	if _, err := b.Lookup(t.Context(), topic, partition, receipts[3].Offset); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a deleted message: %v, want ErrNotFound", err)
	}
}

// A position that the server never had says that it has lost messages.
func TestAPositionBehindTheEndIsNoPosition(t *testing.T) {
	s := start(t)
	b := plain(t, s.Addr())
	partition := publish(t, b, messages("a", 0, 5)...)[0].Partition
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reader, err := b.Read(ctx, topic, map[int]broker.Start{partition: {After: 100}})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if got, err := reader.Next(ctx, 1); !errors.Is(err, broker.ErrNotFound) || !strings.Contains(err.Error(), "behind its end") {
		t.Errorf("got %v, %v, want ErrNotFound", got, err)
	}
}

// A topic may be removed and made anew while its reader is cut off. Its position
// stands for other messages then.
func TestATopicThatIsMadeAnewUnseenEndsItsReader(t *testing.T) {
	s := start(t)
	b := plain(t, s.Addr())
	line := &cuttable{}
	away := connect(t, s.Addr(), func(c *kafkabroker.Config) { c.Dial = line.dial })
	partition := publish(t, b, messages("a", 0, 10)...)[0].Partition
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reader, err := away.Read(ctx, topic, map[int]broker.Start{partition: {After: 9}})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if got, err := reader.Next(ctx, 10); err != nil || got[0].Event.ID != "a-9" {
		t.Fatalf("got %v, %v", got, err)
	}
	line.cut()
	suite := &suiteServer{server: s, other: otherClient(t, s.Addr())}
	old, err := b.Epoch(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	suite.Remove(t, topic)
	// A real server has promised the removal by now, and still knows the old topic
	// for a while.
	for {
		err := b.Ensure(ctx, topic)
		if now, epochErr := b.Epoch(ctx, topic); err == nil && epochErr == nil && now != old {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the topic cannot be made anew: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	publish(t, b, messages("a", 100, 130)...)
	line.mend()
	if got, err := reader.Next(ctx, 10); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("got %v, %v, want ErrNotFound", got, err)
	}
}

// Readers of one client and leader share what a fetch can carry.
func TestOneReaderHasOneConnectionPerLeader(t *testing.T) {
	s := start(t)
	line := &countingLine{}
	b := plain(t, s.Addr(), func(c *kafkabroker.Config) { c.Dial = line.dial })
	publish(t, b, slices.Concat(messages("a", 0, 5), messages("b", 0, 5), messages("c", 0, 5))...)
	before := line.count()
	next(t, b, 15)
	if more := line.count() - before; more > 2 { // one for what describes the topic, should none be idle
		t.Errorf("a reader of %d partitions opened %d connections", b.Partitions(), more)
	}
}

func deleteBefore(t *testing.T, addr string, partition int, offset int64) {
	t.Helper()
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = 10_000
	of := kmsg.NewDeleteRecordsRequestTopic()
	of.Topic = string(topic)
	in := kmsg.NewDeleteRecordsRequestTopicPartition()
	in.Partition, in.Offset = int32(partition), offset
	of.Partitions = append(of.Partitions, in)
	request.Topics = append(request.Topics, of)
	answer, err := request.RequestWith(t.Context(), otherClient(t, addr))
	if err != nil || answer.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("delete records: %+v, %v", answer, err)
	}
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
