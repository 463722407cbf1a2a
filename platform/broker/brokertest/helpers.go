package brokertest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// patience bounds what a test waits for that should come soon.
const patience = 45 * time.Second

// rig is a topic of its own and a client that has made it.
type rig struct {
	Client
	suite *suite
	topic events.Topic
}

func (s *suite) rig(t *testing.T) *rig {
	t.Helper()
	return s.rigOn(t, events.Topic("t"+events.NewID()[24:]+".things.commands"))
}

func (s *suite) rigOn(t *testing.T, topic events.Topic) *rig {
	t.Helper()
	r := &rig{Client: s.server.Connect(t), suite: s, topic: topic}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Ensure(ctx, topic); err != nil {
		t.Fatal(err)
	}
	return r
}

// another returns another client for the same topic.
func (r *rig) another(t *testing.T) *rig {
	t.Helper()
	return r.suite.rigOn(t, r.topic)
}

// message returns the nth message of a key. The keys a and c are of different
// partitions.
func (r *rig) message(key string, n int) broker.Message {
	id := fmt.Sprintf("%s-%d", key, n)
	return broker.Message{Topic: r.topic, PublishID: string(r.topic) + id, Event: events.Event{
		ID: id, Source: "/test", Type: "test.things.make.v1", PartitionKey: key, Time: time.Unix(int64(n), 0).UTC(),
		DataContentType: "application/json", Data: fmt.Appendf(nil, "%d", n),
	}}
}

// messages returns the messages of a key from one number to before another.
func (r *rig) messages(key string, from, to int) []broker.Message {
	var all []broker.Message
	for n := from; n < to; n++ {
		all = append(all, r.message(key, n))
	}
	return all
}

// publish stores messages and fails the test when one is not stored.
func (r *rig) publish(t *testing.T, all ...broker.Message) []broker.Receipt {
	t.Helper()
	var receipts []broker.Receipt
	for chunk := range slices.Chunk(all, broker.BatchMessagesMax) {
		receipts = append(receipts, r.PublishBatch(t.Context(), chunk)...)
	}
	for i, receipt := range receipts {
		if receipt.Err != nil {
			t.Fatalf("message %d: %v", i, receipt.Err)
		}
	}
	return receipts
}

// insist publishes until everything is stored, as a relay does.
func (r *rig) insist(ctx context.Context, all []broker.Message) error {
	for len(all) > 0 {
		receipts := r.PublishBatch(ctx, all)
		left := all[:0:0]
		for i, receipt := range receipts {
			if receipt.Err != nil {
				left = append(left, all[i])
			}
		}
		if all = left; ctx.Err() != nil && len(all) > 0 {
			return receipts[len(receipts)-1].Err
		}
	}
	return nil
}

// everything is where a reader of all partitions begins.
func (r *rig) everything() map[int]broker.Start {
	from := make(map[int]broker.Start)
	for partition := range r.Partitions() {
		from[partition] = broker.Start{}
	}
	return from
}

func (r *rig) read(t *testing.T, from map[int]broker.Start) broker.Reader {
	t.Helper()
	reader, err := r.Read(t.Context(), r.topic, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	return reader
}

// next returns n deliveries.
func next(t *testing.T, reader broker.Reader, n int) []broker.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []broker.Delivery
	for len(all) < n {
		batch, err := reader.Next(ctx, n-len(all))
		if err != nil {
			t.Fatalf("after %d of %d deliveries (%v): %v", len(all), n, ids(all), err)
		}
		all = append(all, batch...)
	}
	return all
}

// nothing checks that a reader has nothing more to deliver.
func nothing(t *testing.T, reader broker.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if more, err := reader.Next(ctx, 10); err == nil {
		t.Errorf("more came: %v", ids(more))
	}
}

func ids(deliveries []broker.Delivery) []string {
	all := make([]string, len(deliveries))
	for i := range deliveries {
		all[i] = deliveries[i].Event.ID
	}
	return all
}

// keyIDs lists the ids of a key's messages from one number to before another.
func keyIDs(key string, from, to int) []string {
	var all []string
	for n := from; n < to; n++ {
		all = append(all, fmt.Sprintf("%s-%d", key, n))
	}
	return all
}

// inOrder checks that each key's messages came as 0, 1, 2 and so on, each once.
func inOrder(t *testing.T, got map[string][]string, keys []string, each int) {
	t.Helper()
	for _, key := range keys {
		if want := keyIDs(key, 0, each); !slices.Equal(got[key], want) {
			t.Errorf("%s came as %v, want %d in order", key, got[key], each)
		}
	}
}

func (r *rig) subscribe(t *testing.T, name string) broker.Group {
	t.Helper()
	group, err := r.Subscribe(t.Context(), r.topic, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Close)
	return group
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

func ack(t *testing.T, d broker.GroupDelivery) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.Ack(ctx); err != nil {
		t.Errorf("ack of %s: %v", d.Event.ID, err)
	}
}

// idle checks that a group hands nothing out.
func idle(t *testing.T, group broker.Group, wait time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if d, err := group.Next(ctx); err == nil {
		t.Errorf("%s was handed out, attempt %d", d.Event.ID, d.Attempt)
	}
}
