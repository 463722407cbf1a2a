package watermillbroker_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

// TestWatermillSuite runs watermill's own suite for Pub/Sub implementations on a
// real JetStream.
func TestWatermillSuite(t *testing.T) {
	b := newBroker(t)
	features := tests.Features{
		ConsumerGroups:    true,
		GuaranteedOrder:   true,
		Persistent:        true,
		GenerateTopicFunc: topicOf,
	}
	tests.TestPubSub(t, features,
		func(t *testing.T) (message.Publisher, message.Subscriber) { return newPubSub(t, b, "suite") },
		func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
			return newPubSub(t, b, group)
		})
}

// topicOf replaces the names the suite would use, which are no topics here.
func topicOf(test tests.TestContext) string { return "watermill.t" + string(test.TestID) }

func newBroker(t *testing.T) broker.Broker {
	t.Helper()
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newPubSub keys messages by payload, as the suite expects the order of each
// payload to be kept.
func newPubSub(t *testing.T, b broker.Broker, group string) (message.Publisher, message.Subscriber) {
	t.Helper()
	publisher, err := message.MessageTransformPublisherDecorator(func(m *message.Message) {
		m.Metadata.Set("ce-partitionkey", string(m.Payload))
	})(watermillbroker.NewPublisher(b))
	if err != nil {
		t.Fatal(err)
	}
	return publisher, watermillbroker.NewSubscriber(b, watermillbroker.SubscriberConfig{
		Group: group, CloseTimeout: time.Second, BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
}
