package natsbroker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for that should come at once.
const patience = 20 * time.Second

const topic events.Topic = "test.things.commands"

// open returns a broker on a server of its own that syncs every write, as in
// production, and the connection it uses.
func open(t *testing.T, config Config) (*Broker, *nats.Conn) {
	t.Helper()
	conn, err := embeddedtest.NATS(t, embeddedtest.Sync()).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return on(t, conn, config), conn
}

// on returns a broker on conn, with the topic.
func on(t *testing.T, conn *nats.Conn, config Config) *Broker {
	t.Helper()
	b, err := New(conn, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	return b
}

// message returns the nth message of a key. The keys a and c are of different
// partitions.
func message(key string, n int) broker.Message {
	id := fmt.Sprintf("%s-%d", key, n)
	return broker.Message{Topic: topic, PublishID: id, Event: events.Event{
		ID: id, Source: "/test", Type: "test.things.make.v1", PartitionKey: key, Time: time.Unix(int64(n), 0).UTC(),
		DataContentType: "application/json", Data: fmt.Appendf(nil, "%d", n),
	}}
}

// messages returns the first n messages of a key.
func messages(key string, n int) []broker.Message {
	all := make([]broker.Message, n)
	for i := range all {
		all[i] = message(key, i)
	}
	return all
}

// publish stores messages and fails the test when one is not stored.
func publish(t *testing.T, b *Broker, all ...broker.Message) []broker.Receipt {
	t.Helper()
	receipts := b.PublishBatch(t.Context(), all)
	for i, receipt := range receipts {
		if receipt.Err != nil {
			t.Fatalf("message %d: %v", i, receipt.Err)
		}
	}
	return receipts
}

// everything is where a reader of all partitions begins.
func everything(b *Broker) map[int]broker.Start {
	from := make(map[int]broker.Start)
	for partition := range b.Partitions() {
		from[partition] = broker.Start{}
	}
	return from
}

func read(t *testing.T, b *Broker, from map[int]broker.Start) broker.Reader {
	t.Helper()
	reader, err := b.Read(t.Context(), topic, from)
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
			t.Fatalf("after %d of %d deliveries: %v", len(all), n, err)
		}
		all = append(all, batch...)
	}
	return all
}

func ids(deliveries []broker.Delivery) []string {
	all := make([]string, len(deliveries))
	for i := range deliveries {
		all[i] = deliveries[i].Event.ID
	}
	return all
}

func keyIDs(key string, from, to int) []string {
	var all []string
	for n := from; n < to; n++ {
		all = append(all, fmt.Sprintf("%s-%d", key, n))
	}
	return all
}

// newRestartable returns a server that can be stopped and started again, and a
// connection that finds it again.
func newRestartable(t *testing.T) (*embeddedtest.RestartableNATS, *nats.Conn) {
	t.Helper()
	server := embeddedtest.Restartable(t)
	return server, server.Connect(t)
}
