package wire

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/saga"
)

//go:embed routes.yaml
var shopRoutes []byte

func gatewayGraph() fx.Option {
	return fx.Options(
		fx.Provide(loadTable, newCommitter, saga.NewReader, newGateway),
		fx.Invoke(runGateway),
	)
}

// startCommands tells the gateway which commands start a saga for a client, with
// the schemas of their requests.
func startCommands() ([]gateway.Command, error) {
	starts := make(map[string]bool)
	for _, definition := range Definitions() {
		program, err := definition.Compile()
		if err != nil {
			return nil, err
		}
		starts[program.StartType] = true
	}
	var commands []gateway.Command
	for _, contract := range shop.Contracts() {
		d := contract.Describe()
		if d.Kind != events.KindCommand {
			continue
		}
		schema, err := shop.Schema(d.Type)
		if err != nil {
			return nil, err
		}
		commands = append(commands, gateway.Command{
			Type: d.Type, Topic: d.Topic, Schema: schema, Saga: starts[d.Type] && !internalStarts[d.Type], Rejections: d.Rejections,
		})
	}
	return commands, nil
}

// signals tells the gateway what sagas wait for that may come from outside, with
// the schemas of its payload.
func signals() ([]gateway.Signal, error) {
	schema, err := shop.Schema(shop.ReviewDecided.Type())
	if err != nil {
		return nil, err
	}
	return []gateway.Signal{{Type: shop.ReviewDecided.Type(), Schema: schema}}, nil
}

func loadTable(config Config) (*gateway.Table, error) {
	commands, err := startCommands()
	if err != nil {
		return nil, err
	}
	awaited, err := signals()
	if err != nil {
		return nil, err
	}
	file, content := "routes.yaml (built in)", shopRoutes
	if config.RoutesFile != "" {
		file = config.RoutesFile
		if content, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("route table: %w", err)
		}
	}
	return gateway.ParseTable(file, content, commands, config.Lookup, awaited...)
}

func newCommitter(l lifecycle, b broker.Broker) *broker.Committer {
	c := broker.NewCommitter(b, 0)
	l.Hooks.Append(fx.StopHook(c.Close))
	return c
}

func newGateway(config Config, process *Process, table *gateway.Table, committer *broker.Committer, b broker.Broker, reader *saga.Reader) (*gateway.Gateway, error) {
	return gateway.New(
		gateway.Config{Secret: config.Secret, Registerer: process.Registry, Logger: process.Logger},
		table,
		gateway.Deps{Publisher: committer, Operations: operations{reader}, Lookup: b.Lookup},
	)
}

// runGateway ensures the topics that commands and signals go to, follows outcomes and serves.
func runGateway(l lifecycle, config Config, process *Process, b broker.Broker, g *gateway.Gateway, at *endpoint, _ *pgxpool.Pool) error {
	topics := []events.Topic{events.Outcomes, events.Signals}
	commands, err := startCommands()
	if err != nil {
		return err
	}
	for _, command := range commands {
		if command.Saga {
			topics = append(topics, command.Topic)
		}
	}
	l.Hooks.Append(fx.StartHook(func(ctx context.Context) error { return b.Ensure(ctx, topics...) }))
	l.run("outcomes", func(ctx context.Context) error { return followOutcomes(ctx, process, b, g) })
	listener, err := listen(context.Background(), process.Logger, "http", config.HTTPAddr, DefaultHTTPAddr)
	if err != nil {
		return err
	}
	at.url = "http://" + listener.Addr().String()
	l.serve("http", gateway.NewServer("", g, process.Logger), listener, func() {
		process.Health.SetDraining()
		g.Drain()
	})
	return nil
}

// followOutcomes keeps a reader on the outcomes' tail. What is missed while it
// is away is found by the waiting requests' own polling.
func followOutcomes(ctx context.Context, process *Process, b broker.Broker, g *gateway.Gateway) error {
	for ctx.Err() == nil {
		reader, err := b.Tail(ctx, events.Outcomes)
		if err == nil {
			err = g.ListenOutcomes(ctx, reader)
			reader.Close()
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop
		}
		process.Logger.WarnContext(ctx, "outcomes are followed anew", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

// operations shows sagas as the gateway's operations.
type operations struct{ reader *saga.Reader }

// Get implements [gateway.Operations].
func (o operations) Get(ctx context.Context, id string) (gateway.Operation, error) {
	in, _, err := o.reader.Get(ctx, id)
	if err != nil {
		if errors.Is(err, saga.ErrNotFound) {
			return gateway.Operation{}, gateway.ErrNotFound
		}
		return gateway.Operation{}, err
	}
	op := gateway.Operation{
		ID: in.ID, Status: gateway.Status(in.Status), Saga: &gateway.SagaVersion{Name: in.Name, Version: in.Version},
		Result: in.Result, CreatedAt: in.CreatedAt, UpdatedAt: in.UpdatedAt,
		Command: in.StartType, Fingerprint: in.Fingerprint, Steps: make([]gateway.StepProgress, len(in.Steps)),
	}
	for i, step := range in.Steps {
		op.Steps[i] = gateway.StepProgress{Name: step.Name, Status: string(step.Status), Attempts: step.Do.Attempts}
	}
	if in.Failure != nil {
		op.Rejection = &events.Rejection{Code: in.Failure.Code, Message: in.Failure.Message}
	}
	return op, nil
}
