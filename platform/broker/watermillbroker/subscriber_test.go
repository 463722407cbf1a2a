package watermillbroker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

const (
	topic   = "watermill.test"
	patient = 20 * time.Second // for what must happen
	brief   = 50 * time.Millisecond
)

// ordered returns a broker with one partition, so that all messages are in order.
func ordered(t *testing.T) (broker.Broker, *nats.Conn) {
	t.Helper()
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	return b, conn
}

func subscriber(t *testing.T, b broker.Broker, config watermillbroker.SubscriberConfig) *watermillbroker.Subscriber {
	t.Helper()
	config.Group, config.BackoffMin, config.BackoffMax = "test", time.Millisecond, time.Millisecond
	config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s := watermillbroker.NewSubscriber(b, config)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func subscribe(ctx context.Context, t *testing.T, s *watermillbroker.Subscriber) <-chan *message.Message {
	t.Helper()
	messages, err := s.Subscribe(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func publish(t *testing.T, b broker.Broker, messages ...*message.Message) {
	t.Helper()
	if err := watermillbroker.NewPublisher(b).Publish(topic, messages...); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next message, which must be that one.
func receive(t *testing.T, messages <-chan *message.Message, want string) *message.Message {
	t.Helper()
	select {
	case m, open := <-messages:
		if !open || m.UUID != want {
			t.Fatalf("received %+v, want %s", m, want)
		}
		return m
	case <-time.After(patient):
		t.Fatalf("no message; want %s", want)
	}
	return nil
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patient):
		t.Fatal("not in time: " + what)
	}
}

// async runs do and returns a channel that is closed when it has returned.
func async(do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	return done
}

func TestTheEndOfASubscriptionFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.CancelFunc, *watermillbroker.Subscriber){
		"close": func(_ context.CancelFunc, s *watermillbroker.Subscriber) { _ = s.Close() },
		"context": func(cancel context.CancelFunc, _ *watermillbroker.Subscriber) {
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := ordered(t)
			publish(t, b, numbered(2)...)
			first := subscriber(t, b, watermillbroker.SubscriberConfig{CloseTimeout: time.Hour})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			messages := subscribe(ctx, t, first)
			m := receive(t, messages, "0")
			ended := async(func() {
				end(cancel, first)
				for range messages { // until it is closed
				}
			})
			select {
			case <-ended:
				t.Error("the subscription ended before its message")
			case <-m.Context().Done():
				t.Error("the message's context ended before the message")
			case <-time.After(brief):
			}
			m.Ack()
			within(t, "the end of the subscription", ended)
			within(t, "the end of the message's context", m.Context().Done())
			receive(t, subscribe(t.Context(), t, subscriber(t, b, watermillbroker.SubscriberConfig{})), "1").Ack()
		})
	}
}

func TestCloseGivesUpAtLast(t *testing.T) {
	t.Parallel()
	b, _ := ordered(t)
	publish(t, b, numbered(1)...)
	first := subscriber(t, b, watermillbroker.SubscriberConfig{CloseTimeout: brief})
	m := receive(t, subscribe(t.Context(), t, first), "0")
	for range 2 {
		within(t, "Close", async(func() { _ = first.Close() }))
	}
	if m.Context().Err() == nil {
		t.Error("the message's context goes on")
	}
	again := receive(t, subscribe(t.Context(), t, subscriber(t, b, watermillbroker.SubscriberConfig{})), "0")
	if delivery, attempt, ok := watermillbroker.DeliveryOf(again.Context()); !ok || attempt != 2 || delivery.Topic != topic || delivery.Event.ID != "0" {
		t.Errorf("attempt %d of %+v", attempt, delivery)
	}
	again.Ack()
	if _, err := first.Subscribe(t.Context(), topic); !errors.Is(err, watermillbroker.ErrClosed) {
		t.Errorf("subscribe after Close: %v", err)
	}
}

func TestAMessageIsDeliveredAgainAfterItsDeadline(t *testing.T) {
	t.Parallel()
	b, _ := ordered(t)
	publish(t, b, numbered(2)...)
	messages := subscribe(t.Context(), t, subscriber(t, b, watermillbroker.SubscriberConfig{AckDeadline: brief}))
	late := receive(t, messages, "0")
	within(t, "the deadline", late.Context().Done())
	receive(t, messages, "0").Ack()
	late.Ack() // changes nothing
	receive(t, messages, "1").Ack()
}

func TestNackKeepsTheOrder(t *testing.T) {
	t.Parallel()
	b, _ := ordered(t)
	publish(t, b, numbered(3)...)
	messages := subscribe(t.Context(), t, subscriber(t, b, watermillbroker.SubscriberConfig{}))
	for _, id := range []string{"0", "1", "2"} {
		for attempt := 1; attempt <= 3; attempt++ {
			m := receive(t, messages, id)
			if _, got, _ := watermillbroker.DeliveryOf(m.Context()); got != attempt {
				t.Errorf("message %s: attempt %d, want %d", id, got, attempt)
			}
			if attempt < 3 {
				m.Nack()
			} else {
				m.Ack()
			}
		}
	}
}

// malformed puts a message on the topic that is no event, and an event after it.
func malformed(t *testing.T) broker.Broker {
	t.Helper()
	b, conn := ordered(t)
	if _, err := conn.Request(topic+".0", []byte("not an event"), patient); err != nil {
		t.Fatal(err)
	}
	publish(t, b, numbered(1)...)
	return b
}

func TestMessagesThatAreNoEventsArePassedOver(t *testing.T) {
	t.Parallel()
	b := malformed(t)
	receive(t, subscribe(t.Context(), t, subscriber(t, b, watermillbroker.SubscriberConfig{})), "0").Ack()
}

func TestMessagesThatAreNoEventsComeAgainUntilTheyAreDoneWith(t *testing.T) {
	t.Parallel()
	b := malformed(t)
	var (
		mu   sync.Mutex
		seen []string
	)
	s := subscriber(t, b, watermillbroker.SubscriberConfig{Malformed: func(_ context.Context, d broker.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, string(d.Event.Data)); len(seen) == 1 {
			return errors.New("not yet")
		}
		return nil
	}})
	receive(t, subscribe(t.Context(), t, s), "0").Ack()
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen, []string{"not an event", "not an event"}) {
		t.Errorf("malformed: %q", seen)
	}
}

// flaky is a broker whose groups fail once they have delivered a message.
type flaky struct{ broker.Broker }

type flakyGroup struct {
	broker.Group
	delivered bool
}

func (f flaky) Subscribe(ctx context.Context, topic events.Topic, name string) (broker.Group, error) {
	group, err := f.Broker.Subscribe(ctx, topic, name)
	return &flakyGroup{Group: group}, err
}

func (g *flakyGroup) Next(ctx context.Context) (broker.GroupDelivery, error) {
	if g.delivered {
		return broker.GroupDelivery{}, fmt.Errorf("%w: for the test", broker.ErrUnavailable)
	}
	d, err := g.Group.Next(ctx)
	g.delivered = true
	return d, err
}

func TestAGroupThatFailsIsJoinedAgain(t *testing.T) {
	t.Parallel()
	b, _ := ordered(t)
	publish(t, b, numbered(3)...)
	s := subscriber(t, flaky{b}, watermillbroker.SubscriberConfig{})
	messages := subscribe(t.Context(), t, s)
	for _, id := range []string{"0", "1", "2"} {
		receive(t, messages, id).Ack()
	}
	within(t, "Close", async(func() { _ = s.Close() }))
}

func TestSubscribeRefusals(t *testing.T) {
	t.Parallel()
	b, _ := ordered(t)
	s := subscriber(t, b, watermillbroker.SubscriberConfig{})
	for name, try := range map[string]func() (<-chan *message.Message, error){
		"topic": func() (<-chan *message.Message, error) { return s.Subscribe(t.Context(), "No Topic") },
		"group": func() (<-chan *message.Message, error) {
			return watermillbroker.NewSubscriber(b, watermillbroker.SubscriberConfig{}).Subscribe(t.Context(), topic)
		},
	} {
		if messages, err := try(); err == nil || messages != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	within(t, "Close", async(func() { _ = s.Close() }))
}

// A router moves messages from one topic to another with their metadata, and
// when it is closed the handler in hand is finished.
func TestRouter(t *testing.T) {
	t.Parallel()
	const results = "watermill.results"
	b, _ := ordered(t)
	if err := b.Ensure(t.Context(), results); err != nil {
		t.Fatal(err)
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patient}, watermill.NewSlogLogger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	router.AddHandler("move", topic, subscriber(t, b, watermillbroker.SubscriberConfig{CloseTimeout: patient}),
		results, watermillbroker.NewPublisher(b), func(m *message.Message) ([]*message.Message, error) {
			begun <- struct{}{}
			select {
			case <-finish:
				return message.Messages{m}, nil
			case <-m.Context().Done():
				return nil, m.Context().Err()
			}
		})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := async(func() {
		if err := router.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	m := message.NewMessage("42", []byte("x"))
	m.Metadata.Set("note", "kept")
	publish(t, b, m)
	within(t, "the handler", begun)
	cancel()
	select {
	case <-ran:
		t.Error("the router left its handler behind")
	case <-time.After(brief):
	}
	close(finish)
	within(t, "the end of the router", ran)

	moved, err := subscriber(t, b, watermillbroker.SubscriberConfig{}).Subscribe(t.Context(), results)
	if err != nil {
		t.Fatal(err)
	}
	got := receive(t, moved, "42")
	if got.Metadata.Get("note") != "kept" || string(got.Payload) != "x" {
		t.Errorf("%q with %v", got.Payload, got.Metadata)
	}
	got.Ack()
}
