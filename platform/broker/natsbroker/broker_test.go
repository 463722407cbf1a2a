package natsbroker

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	t.Run("a stream of our own remembers publish ids, and nobody can take messages out of it", func(t *testing.T) {
		b, _ := open(t, Config{})
		stream, err := b.js.Stream(t.Context(), streamName(topic.Domain()))
		if err != nil {
			t.Fatal(err)
		}
		c := stream.CachedInfo().Config
		if c.Duplicates != duplicateWindow || !c.DenyDelete || !c.DenyPurge || c.AllowDirect || c.Discard != jetstream.DiscardNew {
			t.Errorf("it is made as %+v", c)
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
	for what, change := range map[string]func(c *jetstream.StreamConfig){
		"kept in memory": func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"acknowledged before they are written": func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		},
		"retention policy":       func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
		"beyond 10 of a subject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 10 },
	} {
		t.Run("a stream is refused: "+what, func(t *testing.T) {
			b, conn := open(t, Config{})
			js, err := jetstream.New(conn)
			if err != nil {
				t.Fatal(err)
			}
			c := jetstream.StreamConfig{
				Name: "countermand_foreign", Subjects: []string{"foreign.>"}, Discard: jetstream.DiscardNew, AllowAtomicPublish: true,
				Metadata: map[string]string{partitionsKey: strconv.Itoa(b.Partitions())},
			}
			if _, err := js.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if err := b.Ensure(t.Context(), "foreign.things"); err != nil {
				t.Fatalf("as it should be: %v", err)
			}
			if err := js.DeleteStream(t.Context(), c.Name); err != nil {
				t.Fatal(err)
			}
			change(&c)
			if _, err := js.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if err := b.Ensure(t.Context(), "foreign.things"); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("error = %v", err)
			}
		})
	}
	t.Run("a name that is no topic is refused", func(t *testing.T) {
		b, _ := open(t, Config{})
		if err := b.Ensure(t.Context(), "test.>"); err == nil {
			t.Error("a wildcard was let through")
		}
	})
}

// Offsets are those of the stream, which holds other topics as well.
func TestLookupLeavesOtherTopicsAlone(t *testing.T) {
	b, _ := open(t, Config{})
	other := message("a", 2)
	other.Topic = "test.things.events"
	receipts := publish(t, b, message("a", 1), other)
	if d, err := b.Lookup(t.Context(), topic, receipts[1].Partition, receipts[1].Offset); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("got %+v, %v, want ErrNotFound", d, err)
	}
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
