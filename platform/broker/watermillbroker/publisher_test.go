package watermillbroker_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
)

// recorder is a broker that takes messages until the one with the id in refuse.
type recorder struct {
	refuse  string
	stored  []broker.Message
	batches int
}

func (r *recorder) PublishBatch(_ context.Context, messages []broker.Message) []broker.Receipt {
	r.batches++
	receipts := make([]broker.Receipt, len(messages))
	refused := false
	for i, m := range messages {
		if refused = refused || m.Event.ID == r.refuse; refused {
			receipts[i].Err = fmt.Errorf("%w: for the test", broker.ErrUnavailable)
		} else {
			r.stored = append(r.stored, m)
		}
	}
	return receipts
}

func numbered(n int) []*message.Message {
	messages := make([]*message.Message, n)
	for i := range messages {
		messages[i] = message.NewMessage(strconv.Itoa(i), []byte("x"))
	}
	return messages
}

func TestPublishManyInOrder(t *testing.T) {
	t.Parallel()
	to := &recorder{}
	if err := watermillbroker.NewPublisher(to).Publish("a.b", numbered(2*broker.BatchMessagesMax+1)...); err != nil {
		t.Fatal(err)
	}
	if len(to.stored) != 2*broker.BatchMessagesMax+1 || to.batches != 3 {
		t.Errorf("%d messages in %d batches", len(to.stored), to.batches)
	}
	for i, m := range to.stored {
		if m.Event.ID != strconv.Itoa(i) || m.Topic != "a.b" {
			t.Fatalf("message %d is %s to %s", i, m.Event.ID, m.Topic)
		}
	}
}

func TestPublishStopsAtTheFirstThatFails(t *testing.T) {
	t.Parallel()
	to := &recorder{refuse: "5"}
	err := watermillbroker.NewPublisher(to).Publish("a.b", numbered(broker.BatchMessagesMax+1)...)
	if !errors.Is(err, broker.ErrUnavailable) || len(to.stored) != 5 || to.batches != 1 {
		t.Errorf("%d messages in %d batches, %v", len(to.stored), to.batches, err)
	}
}

func TestPublishIDs(t *testing.T) {
	t.Parallel()
	to := &recorder{}
	publisher := watermillbroker.NewPublisher(to)
	other := message.NewMessage("1", nil)
	other.Metadata.Set("ce-source", "/other")
	for topic, messages := range map[string][]*message.Message{
		"a.b": {message.NewMessage("1", nil), message.NewMessage("1", nil), message.NewMessage("2", nil), other},
		"a.c": {message.NewMessage("1", nil)},
	} {
		if err := publisher.Publish(topic, messages...); err != nil {
			t.Fatal(err)
		}
	}
	ids := make(map[string]int)
	for _, m := range to.stored {
		ids[m.PublishID]++
	}
	if len(to.stored) != 5 || len(ids) != 4 { // only the one that came twice shares an id
		t.Errorf("publish ids of %d messages: %v", len(to.stored), ids)
	}
}

func TestPublishRefusals(t *testing.T) {
	t.Parallel()
	to := &recorder{}
	publisher := watermillbroker.NewPublisher(to)
	if err := publisher.Publish("a.b"); err != nil {
		t.Errorf("nothing to publish: %v", err)
	}
	if err := publisher.Publish("No Topic", numbered(1)...); err == nil {
		t.Error("a bad topic is taken")
	}
	if err := publisher.Publish("a.b", append(numbered(1), with("2", "ce-time", "noon"))...); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("a bad message: %v", err)
	}
	for range 2 {
		if err := publisher.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := publisher.Publish("a.b", numbered(1)...); !errors.Is(err, watermillbroker.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if len(to.stored) != 0 {
		t.Errorf("%d messages were stored", len(to.stored))
	}
}
