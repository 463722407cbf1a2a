package checkout3

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// FiveSteps is how many steps the sagas of [Alone] have. Each is six transitions:
// the start and a reply for each step.
const FiveSteps = 5

type trip struct {
	ID    string `json:"id"`
	Price int64  `json:"price"`
}

var (
	travel = events.NewCommand[line, events.None]("bench.trip.start.v1")
	book   = events.NewCommand[line, held]("bench.hotel.book.v1")
)

func fiveSteps() saga.Definition[trip] {
	var flow saga.Sequence[trip]
	for n := range FiveSteps {
		flow = append(flow, saga.Step[trip]{
			Name: fmt.Sprint("book-", n),
			Do: saga.Call(book, func(t trip) line { return line{t.ID} },
				func(t *trip, reply held) { t.Price += int64(len(reply.Hold)) }),
			NoUndo: "the benchmark goes forward",
		})
	}
	return saga.Definition[trip]{
		Name: "five-steps", Version: 1,
		Start: saga.On(travel, func(id string, _ line) trip { return trip{ID: id} }, func(trip) events.None { return events.None{} }),
		Flow:  flow,
	}
}

// Alone is an engine that is handed ready batches: without a feed, without a
// broker and without participants, whose replies are made up on the spot. What is
// left is deciding and storing. The outcomes go through the outbox to nowhere.
type Alone struct {
	engine  *saga.Engine
	pool    *pgxpool.Pool
	stop    context.CancelFunc
	running sync.WaitGroup
}

// StartAlone starts an engine on a fresh database.
func StartAlone(ctx context.Context, d *Database, logger *slog.Logger) (*Alone, error) {
	pool, err := d.Open(ctx, engineDatabase, saga.SessionParams(),
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()},
		postgres.MigrationSet{Owner: "saga", FS: saga.Migrations()})
	if err != nil {
		return nil, err
	}
	a := &Alone{pool: pool}
	relay := outbox.NewRelay(pool, nowhere{}, outbox.RelayConfig{Name: "engine", Logger: logger})
	a.engine, err = saga.NewEngine(pool, saga.EngineConfig{Wake: relay.Wake, Commands: dispatch{}, Logger: logger}, fiveSteps())
	if err != nil {
		return nil, err
	}
	var run context.Context
	run, a.stop = context.WithCancel(context.Background())
	a.running.Go(func() {
		if err := relay.Run(run); err != nil {
			logger.ErrorContext(run, "relay failed", "error", err)
		}
	})
	return a, nil
}

// Stop ends it.
func (a *Alone) Stop() {
	a.stop()
	a.running.Wait()
	a.pool.Close()
}

// nowhere is a broker that takes everything.
type nowhere struct{}

// PublishBatch implements [broker.Publisher].
func (nowhere) PublishBatch(_ context.Context, messages []broker.Message) []broker.Receipt {
	return make([]broker.Receipt, len(messages))
}

// dispatch is a way out for commands that go nowhere.
type dispatch struct{}

// Send implements [consumer.Sender].
func (dispatch) Send(...broker.Message) {}

// Drive has one worker run sagas in batches of n until the end: a batch of
// starts, then a batch of replies for each step. It returns how many transitions
// that was. Each worker has a partition of its own.
func (a *Alone) Drive(ctx context.Context, worker, n int, end time.Time) (transitions int, err error) {
	positions := make(map[consumer.Source]uint64)
	for _, topic := range []events.Topic{travel.Topic(), events.Replies} {
		_, err := a.pool.Exec(ctx, `
			insert into consumer_position (consumer, topic, partition, epoch, handled) values ($1, $2, $3, 'bench', 0)
			on conflict (consumer, topic, partition) do update set handled = 0`, saga.ConsumerName, string(topic), worker)
		if err != nil {
			return 0, fmt.Errorf("set positions: %w", err)
		}
		positions[consumer.Source{Topic: topic, Partition: worker}] = 0
	}
	process := func(topic events.Topic, all []events.Event) error {
		source := consumer.Source{Topic: topic, Partition: worker}
		deliveries := make([]broker.Delivery, len(all))
		for i := range all {
			deliveries[i] = broker.Delivery{
				Topic: topic, Partition: worker, Offset: positions[source] + uint64(i) + 1, StoredAt: time.Now(), Event: all[i],
			}
		}
		if err := a.engine.Process(ctx, consumer.NewBatch(saga.ConsumerName, positions, deliveries...)); err != nil {
			return err
		}
		positions[source] += uint64(len(all))
		transitions += len(all)
		return nil
	}
	for time.Now().Before(end) && ctx.Err() == nil {
		ids, all := make([]string, n), make([]events.Event, n)
		for i := range ids {
			ids[i] = events.NewID()
			if all[i], err = travel.New(ids[i], "/bench", line{ids[i]}, time.Now()); err != nil {
				return transitions, err
			}
			all[i].CorrelationID, all[i].PartitionKey = ids[i], ids[i]
		}
		if err := process(travel.Topic(), all); err != nil {
			return transitions, err
		}
		for step := range FiveSteps {
			for i, id := range ids {
				command := events.Event{ID: saga.DoID(id, fmt.Sprint("book-", step)), Type: book.Type(), CorrelationID: id, PartitionKey: id}
				if all[i], err = events.NewReply(&command, "/bench", []byte(`{"Hold":"a room with a view"}`), nil, time.Now()); err != nil {
					return transitions, err
				}
			}
			if err := process(events.Replies, all); err != nil {
				return transitions, err
			}
		}
	}
	return transitions, ctx.Err()
}

// Verify checks that every saga that began has completed.
func (a *Alone) Verify(ctx context.Context, sagas int) error {
	var completed, other int
	err := a.pool.QueryRow(ctx, "select count(*) filter (where status = 'completed'), count(*) filter (where status <> 'completed') from saga").
		Scan(&completed, &other)
	if err == nil && (completed != sagas || other != 0) {
		err = fmt.Errorf("%d sagas completed and %d did not, want %d", completed, other, sagas)
	}
	return err
}
