package watermillbroker_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

// TestWatermillSuite runs watermill's own suite for Pub/Sub implementations on a
// real JetStream. Of its tests only TestReconnect is left out, which restarts
// the server by a command.
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

// The suite has one test for subscribers without a group, which begin with the
// oldest message: here each is a group of its own.
func TestWatermillSuiteNewSubscriberReceivesOldMessages(t *testing.T) {
	b := newBroker(t)
	features := tests.Features{Persistent: true, NewSubscriberReceivesOldMessages: true, GenerateTopicFunc: topicOf}
	tests.TestNewSubscriberReceivesOldMessages(t, tests.TestContext{TestID: tests.NewTestID(), Features: features},
		func(t *testing.T) (message.Publisher, message.Subscriber) { return newPubSub(t, b, events.NewID()) })
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
// payload to be kept. It closes the subscriber, which the suite does not always
// do.
func newPubSub(t *testing.T, b broker.Broker, group string) (message.Publisher, message.Subscriber) {
	t.Helper()
	publisher, err := message.MessageTransformPublisherDecorator(func(m *message.Message) {
		m.Metadata.Set("ce-partitionkey", string(m.Payload))
	})(watermillbroker.NewPublisher(b))
	if err != nil {
		t.Fatal(err)
	}
	subscriber := watermillbroker.NewSubscriber(b, watermillbroker.SubscriberConfig{
		Group: group, CloseTimeout: time.Second, BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() { _ = subscriber.Close() })
	return publisher, subscriber
}
