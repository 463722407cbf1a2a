package kafkatest_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
	"github.com/countermand/countermand/platform/broker/kafkatest"
)

const (
	topic    events.Topic = "test.things.commands"
	patience              = 30 * time.Second
)

// fake starts a fake that the test tells to fail.
func fake(t *testing.T, options ...kfake.Opt) *kafkatest.Fake {
	t.Helper()
	return fakeOf(t, 1, options...)
}

func fakeOf(t *testing.T, nodes int, options ...kfake.Opt) *kafkatest.Fake {
	t.Helper()
	f, err := kafkatest.StartFake(t.TempDir(), nodes, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Stop() })
	return f
}

// plain is a broker that does not look for copies, with the topic.
func plain(t *testing.T, addr string, change ...func(*kafkabroker.Config)) *kafkabroker.Broker {
	t.Helper()
	b := connect(t, addr, append([]func(*kafkabroker.Config){func(c *kafkabroker.Config) { c.DuplicateWindow = 0 }}, change...)...)
	ensure(t, b)
	return b
}

func ensure(t *testing.T, b broker.Broker) {
	t.Helper()
	if err := b.Ensure(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}

// message returns the nth message of a key. The keys a and c are of different
// partitions.
func message(key string, n int) broker.Message {
	id := fmt.Sprintf("%s-%d", key, n)
	return broker.Message{Topic: topic, PublishID: id, Event: events.Event{
		ID: id, Source: "/test", Type: "test.things.make.v1", PartitionKey: key, Data: fmt.Appendf(nil, "%d", n),
	}}
}

func messages(key string, from, to int) (all []broker.Message) {
	for n := from; n < to; n++ {
		all = append(all, message(key, n))
	}
	return all
}

func ids(all []broker.Message) (ids []string) {
	for _, m := range all {
		ids = append(ids, m.Event.ID)
	}
	return ids
}

func publish(t *testing.T, b broker.Broker, all ...broker.Message) []broker.Receipt {
	t.Helper()
	receipts := b.PublishBatch(t.Context(), all)
	for i, receipt := range receipts {
		if receipt.Err != nil {
			t.Fatalf("message %d: %v", i, receipt.Err)
		}
	}
	return receipts
}

func everything(b broker.Broker) map[int]broker.Start {
	from := make(map[int]broker.Start)
	for partition := range b.Partitions() {
		from[partition] = broker.Start{}
	}
	return from
}

// wantLog checks what all partitions hold, key by key.
func wantLog(t *testing.T, b broker.Broker, want ...broker.Message) {
	t.Helper()
	n, err := b.Backlog(t.Context(), topic, everything(b))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]string)
	for _, d := range next(t, b, int(n)) {
		got[d.Event.PartitionKey] = append(got[d.Event.PartitionKey], d.Event.ID)
	}
	wanted := make(map[string][]string)
	for _, m := range want {
		wanted[m.Event.PartitionKey] = append(wanted[m.Event.PartitionKey], m.Event.ID)
	}
	for key := range wanted {
		if !slices.Equal(got[key], wanted[key]) {
			t.Errorf("of %s are stored %v, want %v", key, got[key], wanted[key])
		}
	}
	if int(n) != len(want) {
		t.Errorf("%d messages are stored, want %d", n, len(want))
	}
}

// next reads the first n messages of the topic.
func next(t *testing.T, b broker.Broker, n int) (all []broker.Delivery) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reader, err := b.Read(ctx, topic, everything(b))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for len(all) < n {
		batch, err := reader.Next(ctx, n-len(all))
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(all), n, err)
		}
		all = append(all, batch...)
	}
	return all
}

func take(t *testing.T, group broker.Group) broker.GroupDelivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := group.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func subscribe(t *testing.T, b broker.Broker, name string) broker.Group {
	t.Helper()
	group, err := b.Subscribe(t.Context(), topic, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Close)
	return group
}

func ack(t *testing.T, d broker.GroupDelivery) {
	t.Helper()
	if err := d.Ack(t.Context()); err != nil {
		t.Errorf("ack of %s: %v", d.Event.ID, err)
	}
}
