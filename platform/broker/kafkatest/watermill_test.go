package kafkatest_test

import (
	"log/slog"
	"testing"
	"time"

	watermill "github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
)

// TestWatermillSuite runs watermill's own suite for Pub/Sub implementations on
// Kafka, as package watermillbroker does on JetStream.
func TestWatermillSuite(t *testing.T) {
	b := connect(t, start(t).Addr())
	features := tests.Features{
		ConsumerGroups:    true,
		GuaranteedOrder:   true,
		Persistent:        true,
		GenerateTopicFunc: func(test tests.TestContext) string { return "watermill.t" + string(test.TestID) },
	}
	tests.TestPubSub(t, features,
		func(t *testing.T) (watermill.Publisher, watermill.Subscriber) { return newPubSub(t, b, "suite") },
		func(t *testing.T, group string) (watermill.Publisher, watermill.Subscriber) {
			return newPubSub(t, b, group)
		})
	t.Run("new subscribers receive old messages", func(t *testing.T) {
		features.NewSubscriberReceivesOldMessages = true
		tests.TestNewSubscriberReceivesOldMessages(t, tests.TestContext{TestID: tests.NewTestID(), Features: features},
			func(t *testing.T) (watermill.Publisher, watermill.Subscriber) { return newPubSub(t, b, events.NewID()) })
	})
}

// newPubSub keys messages by payload, as the suite expects the order of each
// payload to be kept.
func newPubSub(t *testing.T, b broker.Broker, group string) (watermill.Publisher, watermill.Subscriber) {
	t.Helper()
	publisher, err := watermill.MessageTransformPublisherDecorator(func(m *watermill.Message) {
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
