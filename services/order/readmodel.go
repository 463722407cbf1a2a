package order

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/watermillbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/telemetry"
)

// readModelGroup is the consumer group of the read model: the broker keeps its
// progress.
const readModelGroup = "order-customers"

const (
	summaryAttemptsMax = 10               // of a fact that cannot be counted, before it is set aside
	closeTimeout       = 15 * time.Second // for the facts in hand when the router stops; the subscriber waits less
	brokerRest         = time.Second      // before a broker that is away is asked again
	pruneEvery         = time.Hour
	pruneMax           = 1000 // rows of one statement
)

// ReadModel keeps the customer summaries current. Make it with
// [Service.ReadModel].
type ReadModel struct {
	service    *Service
	broker     broker.Broker
	router     *message.Router
	subscriber *watermillbroker.Subscriber
	summaries  *postgres.Batcher[summed, struct{}]
	logger     *slog.Logger
	tracer     trace.Tracer
}

// ReadModel returns the service's read model: a watermill router on the order
// facts in b. Run it once to keep it current; as many as you like share the work.
func (s *Service) ReadModel(b broker.Broker, logger *slog.Logger) (*ReadModel, error) {
	adapter := watermill.NewSlogLoggerWithLevelMapping(logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, // it tells of every start and stop
	})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, adapter)
	if err != nil {
		return nil, fmt.Errorf("read model of customers: %w", err)
	}
	m := &ReadModel{
		service: s, broker: b, router: router, logger: logger,
		tracer: otel.Tracer("github.com/countermand/countermand/services/order"),
	}
	m.summaries = postgres.NewBatcher(summariesMax, summariesTimeout, func(ctx context.Context, facts []summed) ([]struct{}, error) {
		return make([]struct{}, len(facts)), summarise(ctx, s.pool, facts...)
	})
	m.subscriber = watermillbroker.NewSubscriber(b, watermillbroker.SubscriberConfig{
		Group: readModelGroup, Logger: logger,
		Malformed: func(ctx context.Context, d broker.Delivery) error { return m.setAside(ctx, d, 1, d.Malformed) },
	})
	router.AddConsumerHandler("customer-summary", string(shop.OrderPlaced.Topic()), m.subscriber, m.handle)
	return m, nil
}

// Run follows the facts until ctx ends, finishes those in hand, and returns nil.
// It survives a broker and a database that are away.
func (m *ReadModel) Run(ctx context.Context) error {
	// A router that could not subscribe cannot be run again, so the broker must be
	// there before. Later on the subscriber renews what it has lost.
	for {
		err := m.broker.Ensure(ctx, shop.OrderPlaced.Topic())
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		m.logger.WarnContext(ctx, "read model waits for the broker", "consumer", readModelGroup, "error", err)
		select {
		case <-time.After(brokerRest):
		case <-ctx.Done():
			return nil
		}
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { m.pruneFromTimeToTime(ctx) })
	redriver := consumer.NewRedriver(m.service.pool, m, consumer.RedriverConfig{
		Name: readModelGroup, Topics: []events.Topic{shop.OrderPlaced.Topic()}, Logger: m.logger,
	})
	beside.Go(func() { _ = redriver.Run(ctx) }) // it returns nil
	defer m.subscriber.Close()
	if err := m.router.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read model of customers: %w", err)
	}
	return nil
}

// handle takes one fact in. The router acknowledges the message when there is no
// error; after one it comes again, before the later facts of its order.
func (m *ReadModel) handle(msg *message.Message) error {
	delivery, attempt, ok := watermillbroker.DeliveryOf(msg.Context())
	if !ok {
		return fmt.Errorf("message %s is not from the broker", msg.UUID)
	}
	e := &delivery.Event
	fact, known := counted[e.Type]
	if !known {
		return nil // facts of this topic that the model says nothing about
	}
	ctx, span := telemetry.StartConsume(msg.Context(), m.tracer, readModelGroup, e)
	defer span.End()
	payload, err := fact.Payload(e)
	if err == nil {
		err = m.count(ctx, e, payload)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, events.ErrInvalid), attempt >= summaryAttemptsMax && !postgres.IsRetryable(err):
		span.SetStatus(codes.Error, "terminal")
		return m.setAside(ctx, delivery, attempt, err)
	default:
		span.SetStatus(codes.Error, "failed")
		return err
	}
}

// Memory implements [consumer.Rememberer]: facts that were counted are kept by id.
func (m *ReadModel) Memory() consumer.Memory { return consumer.MemoryOwn }

// Process implements [consumer.Processor] for the facts that were set aside and are
// redriven, and for those that are replayed.
func (m *ReadModel) Process(ctx context.Context, batch *consumer.Batch) error {
	return postgres.InTx(ctx, m.service.pool, func(tx pgx.Tx) error {
		for i := range batch.Deliveries {
			d := &batch.Deliveries[i]
			attempt, last := batch.Attempt(i)
			if attempt > summaryAttemptsMax {
				batch.Bury(i, attempt-1, last)
				continue
			}
			contract, known := counted[d.Event.Type]
			err := d.Malformed
			if err == nil && known {
				var payload shop.OrderChanged
				var fact summed
				if payload, err = contract.Payload(&d.Event); err == nil {
					fact, err = summaryOf(&d.Event, payload)
				}
				if err == nil {
					err = summarise(ctx, tx, fact)
				}
			}
			switch {
			case err == nil:
				batch.Done(i)
			case d.Malformed != nil, errors.Is(err, events.ErrInvalid):
				batch.Bury(i, attempt, consumer.Terminal(err))
			default:
				return err // which has failed the transaction
			}
		}
		var positions pgx.Batch
		batch.QueuePositions(&positions)
		return tx.SendBatch(ctx, &positions).Close()
	})
}

// setAside keeps a fact that cannot be counted among the dead letters. The next
// ones must not wait for it.
func (m *ReadModel) setAside(ctx context.Context, d broker.Delivery, attempts int, reason error) error {
	var batch pgx.Batch
	consumer.QueueDeadLetter(&batch, readModelGroup, &d, attempts, reason)
	if err := m.service.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("set %s aside: %w", d.Event.ID, err)
	}
	m.logger.ErrorContext(ctx, "event became a dead letter", "consumer", readModelGroup, "topic", d.Topic, "partition", d.Partition,
		"offset", d.Offset, "event_id", d.Event.ID, "event_type", d.Event.Type, "attempts", attempts, "error", reason)
	return nil
}

func (m *ReadModel) pruneFromTimeToTime(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if err := m.prune(ctx); err != nil && ctx.Err() == nil {
			m.logger.WarnContext(ctx, "old facts could not be forgotten", "consumer", readModelGroup, "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// prune forgets facts so old that the broker cannot deliver them again.
func (m *ReadModel) prune(ctx context.Context) error {
	for {
		tag, err := m.service.pool.Exec(ctx, `
			delete from customer_summary_seen where event_id in (
				select event_id from customer_summary_seen
				where seen_at < now() - interval '30 days'
				order by seen_at limit $1
				for update skip locked
			)`, pruneMax)
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		if tag.RowsAffected() < pruneMax {
			return nil
		}
	}
}
