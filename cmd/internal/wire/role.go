package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/dig"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/outbox/operate"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// Running is a started role.
type Running struct {
	Role string
	// URL is where the role's HTTP API is; empty for the engine, which has none.
	URL string
	// Open says that the gateway's routes ask for no credential unless they say so.
	Open bool
	app  *fx.App
}

// endpoint is where a role puts the URL it serves at.
type endpoint struct {
	url      string
	loopback bool // it is reached from this machine only
	open     bool
}

// Start builds the role and starts it. ctx bounds the start.
func Start(ctx context.Context, config Config, process *Process) (*Running, error) {
	at := &endpoint{}
	var started atomic.Bool
	process.Health.Add("started/"+config.Role, func(context.Context) error {
		if !started.Load() {
			return errors.New("it has not served yet")
		}
		return nil
	})
	app := fx.New(options(config, process), fx.Supply(at))
	if err := app.Err(); err != nil {
		return nil, fmt.Errorf("build %s: %w", config.Role, cause(err))
	}
	if err := app.Start(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", config.Role, cause(err))
	}
	started.Store(true)
	return &Running{Role: config.Role, URL: at.url, Open: at.open, app: app}, nil
}

// cause is what a constructor failed with, without the list of all that needed it.
func cause(err error) error { return dig.RootCause(err) }

// Wait returns when a part of the role has failed, with an error that says so, or
// when ctx ends, with nil.
func (r *Running) Wait(ctx context.Context) error {
	select {
	case signal := <-r.app.Wait():
		// fx tells of SIGINT and SIGTERM here as well, with code 0; stopping on those
		// is for whoever ends ctx.
		if signal.ExitCode != 0 {
			return fmt.Errorf("%s: a part of it has failed; the log says which", r.Role)
		}
		<-ctx.Done()
		return nil
	case <-ctx.Done():
		return nil
	}
}

// Stop finishes what the role has in hand and stops it; ctx bounds the wait.
func (r *Running) Stop(ctx context.Context) error {
	if err := r.app.Stop(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", r.Role, err)
	}
	return nil
}

// options is the graph of a role.
func options(config Config, process *Process) fx.Option {
	return fx.Options(
		fx.Supply(config, process, process.Logger),
		fx.Provide(openPool, newBroker, newRelay, newDispatcher),
		graph(config.Role),
		fx.StartTimeout(2*time.Minute), fx.StopTimeout(stopTimeout),
		fx.WithLogger(func(logger *slog.Logger) fxevent.Logger {
			l := &fxevent.SlogLogger{Logger: logger}
			l.UseLogLevel(slog.LevelDebug)
			l.UseErrorLevel(slog.LevelDebug) // whoever starts and stops the role tells of them
			return l
		}),
	)
}

func graph(role string) fx.Option {
	switch role {
	case Gateway:
		return gatewayGraph()
	case Engine:
		return fx.Options(engineGraph(), scheduleGraph())
	case Order:
		return orderGraph()
	case Payment:
		return paymentGraph()
	case Inventory:
		return inventoryGraph()
	case AI:
		return aiGraph()
	}
	return fx.Error(fmt.Errorf("there is no role %q", role))
}

// openPool connects to the role's database and checks that its schema fits.
func openPool(l lifecycle, config Config, process *Process) (*pgxpool.Pool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	settings := postgres.Config{URL: config.DatabaseURL, ApplicationName: "countermand-" + config.Role, MaxConns: 16}
	if config.Role == Engine {
		settings.Params = saga.SessionParams()
	} else {
		settings.Params = consumer.SessionParams()
	}
	pool, err := postgres.Open(ctx, settings)
	if err != nil {
		return nil, err
	}
	if sets := migrations(config.Role); sets != nil && config.Role != Gateway { // whose own database is another one
		// A newer schema is what a rolling deploy looks like from the old binary.
		if err := postgres.CheckSchema(ctx, pool, sets...); err != nil && !errors.Is(err, postgres.ErrSchemaNewer) {
			pool.Close()
			return nil, err
		}
		if err := outbox.CheckSequence(ctx, pool); err != nil {
			pool.Close()
			return nil, err
		}
	}
	process.Health.Add("postgres/"+config.Role, pool.Ping)
	l.Hooks.Append(fx.StopHook(pool.Close))
	return pool, nil
}

// newRelay makes the relay of the role's outbox. It is run by whoever writes.
func newRelay(pool *pgxpool.Pool, b broker.Broker, config Config, process *Process) *outbox.Relay {
	relay := outbox.NewRelay(pool, b, outbox.RelayConfig{Name: config.Role, Logger: process.Logger, Metrics: process.Registry})
	process.Messaging.AddOutbox(operate.New(config.Role, pool, relay))
	return relay
}

// newDispatcher makes what sends the role's commands or replies from memory.
func newDispatcher(b broker.Broker, config Config, process *Process) *broker.Dispatcher {
	return broker.NewDispatcher(b, broker.DispatcherConfig{Name: config.Role, Logger: process.Logger, Metrics: process.Registry})
}

// senders are what publishes for a role.
type senders struct {
	fx.In

	Relay      *outbox.Relay
	Dispatcher *broker.Dispatcher
}

// runFeed runs a processor over its topics, with what publishes for it: that
// starts first and stops last, so that what the last batch left is sent. The dead
// letters are those of the role.
func runFeed(l lifecycle, role string, process *Process, pool *pgxpool.Pool, b broker.Broker, send senders, processor consumer.Processor, config consumer.FeedConfig) error {
	config.Logger, config.Metrics = process.Logger, process.Registry
	feed, err := consumer.NewFeed(pool, b, processor, config)
	if err != nil {
		return err
	}
	process.Messaging.AddDeadLetters(deadletter.NewStore(role, pool), b)
	l.run("relay", send.Relay.Run)
	l.run("dispatcher", send.Dispatcher.Run)
	l.run(config.Name, feed.Run)
	return nil
}
