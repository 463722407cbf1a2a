package order

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
)

// readModelGroup is the consumer group of the read model.
const readModelGroup = "order-customers"

// closeTimeout is how long the router waits for the facts in hand when it stops.
const closeTimeout = 10 * time.Second

// ReadModel keeps the customer summaries current. Make it with
// [Service.ReadModel].
type ReadModel struct {
	service *Service
	router  *message.Router
}

// ReadModel returns the service's read model: a watermill router on the order
// facts in b. Run it to keep it current; as many as you like share the work.
func (s *Service) ReadModel(b broker.Broker, logger *slog.Logger) (*ReadModel, error) {
	adapter := watermill.NewSlogLoggerWithLevelMapping(logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, // it tells of every start and stop
	})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, adapter)
	if err != nil {
		return nil, fmt.Errorf("read model of customers: %w", err)
	}
	m := &ReadModel{service: s, router: router}
	subscriber := watermillbroker.NewSubscriber(b, watermillbroker.SubscriberConfig{Group: readModelGroup, Logger: logger})
	router.AddConsumerHandler("customer-summary", string(shop.OrderPlaced.Topic()), subscriber, m.handle)
	return m, nil
}

// Run follows the facts until ctx ends, finishes those in hand, and returns nil.
func (m *ReadModel) Run(ctx context.Context) error {
	if err := m.router.Run(ctx); err != nil {
		return fmt.Errorf("read model of customers: %w", err)
	}
	return nil
}

// handle takes one fact in. An error has it delivered again.
func (m *ReadModel) handle(msg *message.Message) error {
	e, err := watermillbroker.EventOf(msg)
	if err != nil {
		return err
	}
	fact, known := facts[e.Type]
	if !known {
		return nil // facts of this topic that the model says nothing about
	}
	payload, err := fact.Payload(&e)
	if err != nil {
		// It will never be readable. The next ones must not wait for it.
		m.service.logger.ErrorContext(msg.Context(), "order fact is unreadable and left out of the read model",
			"event_id", e.ID, "event_type", e.Type, "error", err)
		return nil
	}
	return m.service.summarise(msg.Context(), &e, payload)
}

var facts = map[string]events.Fact[shop.OrderChanged]{
	shop.OrderPlaced.Type():    shop.OrderPlaced,
	shop.OrderConfirmed.Type(): shop.OrderConfirmed,
	shop.OrderCancelled.Type(): shop.OrderCancelled,
}

// summarise counts a fact in, once.
func (s *Service) summarise(ctx context.Context, e *events.Event, o shop.OrderChanged) error {
	pending, confirmed, cancelled := int64(-1), int64(0), int64(0)
	switch o.Status {
	case statusPending:
		pending = 1
	case statusConfirmed:
		confirmed = 1
	case statusCancelled:
		cancelled = 1
	default:
		return errors.New("order fact has the unknown status " + o.Status)
	}
	// One statement, and so one transaction and one round trip: it does nothing for
	// a fact that has been seen.
	_, err := s.pool.Exec(ctx, `
		with fresh as (
			insert into customer_summary_seen (event_id) values ($1) on conflict do nothing returning 1
		), counted as (
			insert into customer_summary as s (customer, pending, confirmed, cancelled)
			select $2, $3, $4, $5 from fresh
			on conflict (customer) do update set pending = s.pending + $3, confirmed = s.confirmed + $4,
				cancelled = s.cancelled + $5, updated_at = clock_timestamp()
		)
		insert into customer_spending as s (customer, currency, spent)
		select $2, $6, $7 from fresh where $4 > 0
		on conflict (customer, currency) do update set spent = s.spent + excluded.spent`,
		e.Source+" "+e.ID, o.Customer, pending, confirmed, cancelled, o.Currency, o.Total)
	if err != nil {
		return fmt.Errorf("count %s of order %s: %w", e.Type, o.OrderID, err)
	}
	return nil
}
