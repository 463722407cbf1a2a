package natsbroker

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

func TestEnsure(t *testing.T) {
	t.Run("a topic can be ensured again, and with others of its domain", func(t *testing.T) {
		b, conn := open(t, Config{})
		publish(t, b, message("a", 1))
		again := on(t, conn, Config{})
		if err := again.Ensure(t.Context(), topic, "test.things.events", "other.events"); err != nil {
			t.Fatal(err)
		}
		if n := stored(t, b); n != 1 {
			t.Errorf("%d messages are left, want 1", n)
		}
	})
	t.Run("another number of partitions is refused", func(t *testing.T) {
		_, conn := open(t, Config{Partitions: 8})
		other, err := New(conn, Config{Partitions: 4})
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Ensure(t.Context(), topic); err == nil || !strings.Contains(err.Error(), `"8" partitions`) || !strings.Contains(err.Error(), "wants 4") {
			t.Errorf("Ensure with 4 partitions = %v", err)
		}
	})
	t.Run("a stream that would lose or reorder messages is refused with every reason", func(t *testing.T) {
		_, conn := open(t, Config{})
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "countermand_foreign", Subjects: []string{"foreign.x"}}); err != nil {
			t.Fatal(err)
		}
		b, err := New(conn, Config{})
		if err != nil {
			t.Fatal(err)
		}
		err = b.Ensure(t.Context(), "foreign.things")
		for _, want := range []string{"subjects", "partitions", "atomic", "discard"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v does not mention %q", err, want)
			}
		}
	})
	t.Run("a name that is no topic is refused", func(t *testing.T) {
		b, _ := open(t, Config{})
		if err := b.Ensure(t.Context(), "test.>"); err == nil {
			t.Error("a wildcard was let through")
		}
	})
}

func TestEpoch(t *testing.T) {
	b, conn := open(t, Config{})
	first, err := b.Epoch(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("it stays as long as the topic does", func(t *testing.T) {
		publish(t, b, message("a", 1))
		if again, err := on(t, conn, Config{}).Epoch(t.Context(), topic); err != nil || again != first {
			t.Errorf("epoch %q, %v, want %q", again, err, first)
		}
	})
	t.Run("there is none without the topic", func(t *testing.T) {
		if epoch, err := b.Epoch(t.Context(), "missing.events"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("epoch %q, %v, want ErrNotFound", epoch, err)
		}
	})
	t.Run("a topic that is made anew has another", func(t *testing.T) {
		makeAnew(t, b)
		if again, err := b.Epoch(t.Context(), topic); err != nil || again == first {
			t.Errorf("epoch %q, %v, want another than %q", again, err, first)
		}
	})
}

// makeAnew removes the topic with everything in it and makes it again.
func makeAnew(t *testing.T, b *Broker) {
	t.Helper()
	if err := b.js.DeleteStream(t.Context(), streamName(topic.Domain())); err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	b, _ := open(t, Config{})
	other := message("a", 2)
	other.Topic = "test.things.events"
	receipts := publish(t, b, message("a", 1), other)
	t.Run("it finds the message", func(t *testing.T) {
		d, err := b.Lookup(t.Context(), topic, receipts[0].Partition, receipts[0].Offset)
		if err != nil || d.Event.ID != "a-1" || d.Topic != topic || d.Offset != receipts[0].Offset {
			t.Errorf("got %+v, %v", d, err)
		}
	})
	for what, at := range map[string]struct {
		topic     events.Topic
		partition int
		offset    uint64
	}{
		"after the last message":  {topic, receipts[0].Partition, 99},
		"at zero":                 {topic, receipts[0].Partition, 0},
		"in another partition":    {topic, receipts[0].Partition + 1, receipts[0].Offset},
		"in another topic":        {topic, receipts[1].Partition, receipts[1].Offset},
		"in a topic that is none": {"missing.events", 0, 1},
	} {
		t.Run("there is nothing "+what, func(t *testing.T) {
			if d, err := b.Lookup(t.Context(), at.topic, at.partition, at.offset); !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("got %+v, %v, want ErrNotFound", d, err)
			}
		})
	}
}

func TestBacklog(t *testing.T) {
	b, _ := open(t, Config{})
	receipts := publish(t, b, messages("a", 10)...)
	publish(t, b, messages("c", 5)...)
	a, other := receipts[0].Partition, broker.Partition("c", b.Partitions())
	for what, one := range map[string]struct {
		from map[int]broker.Start
		want uint64
	}{
		"everything":                {everything(b), 15},
		"nothing":                   {nil, 0},
		"one partition":             {map[int]broker.Start{other: {}}, 5},
		"what lies after positions": {map[int]broker.Start{a: {After: receipts[3].Offset}, other: {}}, 11},
		"no more at the end":        {map[int]broker.Start{a: {After: receipts[9].Offset}}, 0},
		"no more beyond the end":    {map[int]broker.Start{a: {After: 1000}}, 0},
	} {
		t.Run("it counts "+what, func(t *testing.T) {
			if got, err := b.Backlog(t.Context(), topic, one.from); err != nil || got != one.want {
				t.Errorf("Backlog = %d, %v, want %d", got, err, one.want)
			}
		})
	}
	t.Run("a topic that is none has no backlog to count", func(t *testing.T) {
		if _, err := b.Backlog(t.Context(), "missing.events", everything(b)); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
}

func TestPing(t *testing.T) {
	b, conn := open(t, Config{})
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	conn.Close()
	if err := b.Ping(t.Context()); !errors.Is(err, broker.ErrUnavailable) || !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Ping() = %v, want ErrUnavailable", err)
	}
}
