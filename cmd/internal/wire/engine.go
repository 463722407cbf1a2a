package wire

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/saga"
)

func engineGraph() fx.Option {
	return fx.Options(
		fx.Provide(newEngine, saga.NewReader),
		fx.Invoke(runEngine),
	)
}

func newEngine(pool *pgxpool.Pool, send senders, config Config, process *Process) (*saga.Engine, error) {
	check, err := payloadCheck(config)
	if err != nil {
		return nil, err
	}
	return saga.NewEngine(pool, saga.EngineConfig{
		Check: check,
		Wake:  send.Relay.Wake, Commands: send.Dispatcher, Logger: process.Logger, Metrics: process.Registry,
	}, Definitions()...)
}

func runEngine(l lifecycle, process *Process, pool *pgxpool.Pool, b broker.Broker, send senders, engine *saga.Engine, reader *saga.Reader) error {
	l.Hooks.Append(fx.StartHook(func(ctx context.Context) error {
		if err := engine.Check(ctx); err != nil {
			return err
		}
		return engine.Prepare(ctx)
	}))
	err := runFeed(l, Engine, process, pool, b, send, engine, consumer.FeedConfig{
		Name: saga.ConsumerName, Topics: engine.Topics(), BatchMax: 256,
	})
	if err != nil {
		return err
	}
	l.run("saga-timers", engine.RunTimers)
	l.run("saga-retention", engine.RunRetention)
	admin.Register(process.Admin, admin.Config{Reader: reader, Operator: engine, Logger: process.Logger})
	return nil
}
