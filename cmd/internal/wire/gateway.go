package wire

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/events/asyncapi"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/gateway/intake"
	"github.com/countermand/countermand/platform/gateway/reload"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/webhook"
)

//go:embed routes.yaml
var shopRoutes []byte

func gatewayGraph() fx.Option {
	return fx.Options(
		fx.Provide(loadTable, newCommitter, saga.NewReader, openStore, newIntake, newKeys, newWebhooks, newGateway, newLoader, newMoney, newAI),
		fx.Invoke(runWebhooks, runGateway),
	)
}

// startTypes returns the type of the command that starts each definition.
var startTypes = sync.OnceValues(func() (map[string]string, error) {
	starts := make(map[string]string)
	for _, definition := range Definitions() {
		program, err := definition.Compile()
		if err != nil {
			return nil, err
		}
		starts[program.Name] = program.StartType
	}
	return starts, nil
})

// startCommands tells the gateway which commands start a saga for a client, with
// the schemas of their requests.
func startCommands() ([]gateway.Command, error) {
	started, err := startTypes()
	if err != nil {
		return nil, err
	}
	starts := make(map[string]bool)
	for _, command := range started {
		starts[command] = true
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
	// The AI route sends it for clients that do not wait.
	asked := ai.RequestCompletion.Describe()
	schema, err := ai.Schema(asked.Type)
	if err != nil {
		return nil, err
	}
	return append(commands, gateway.Command{Type: asked.Type, Topic: asked.Topic, Schema: schema, Rejections: asked.Rejections}), nil
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

// contracts are what a route table may speak of.
func contracts() (gateway.Contracts, error) {
	var (
		c   gateway.Contracts
		err error
	)
	if c.Commands, err = startCommands(); err != nil {
		return c, err
	}
	if c.Signals, err = signals(); err != nil {
		return c, err
	}
	for _, contract := range shop.Contracts() {
		d := contract.Describe()
		if d.Kind != events.KindFact {
			continue
		}
		schema, err := shop.Schema(d.Type)
		if err != nil {
			return c, err
		}
		c.Facts = append(c.Facts, gateway.Fact{Type: d.Type, Schema: schema})
	}
	return c, nil
}

// BuiltInRoutes is what errors call the route table of the shop.
const BuiltInRoutes = "routes.yaml (built in)"

// ReadRoutes returns the text of a route table, and what errors call it. An empty
// file is that of the shop.
func ReadRoutes(file string) (name string, text []byte, err error) {
	if file == "" {
		return BuiltInRoutes, shopRoutes, nil
	}
	if text, err = os.ReadFile(file); err != nil {
		return file, nil, fmt.Errorf("route table: %w", err)
	}
	return file, text, nil
}

// ParseRoutes reads a route table for the contracts of this build.
func ParseRoutes(name string, text []byte, lookupEnv func(string) (string, bool)) (*gateway.Table, error) {
	c, err := contracts()
	if err != nil {
		return nil, err
	}
	return gateway.ParseTable(name, text, c, lookupEnv)
}

// CheckRoutes reports what is wrong with the route table that a process would load,
// before anything is started for it. Where services will be is not known yet.
func CheckRoutes(file string) error {
	name, text, err := ReadRoutes(file)
	if err != nil {
		return err
	}
	_, err = ParseRoutes(name, text, func(variable string) (string, bool) {
		if value, ok := os.LookupEnv(variable); ok {
			return value, true
		}
		for _, role := range Roles() {
			if variable == UpstreamVariable(role) {
				return "http://127.0.0.1", true
			}
		}
		return "", false
	})
	return err
}

// loaded is a route table and what it was read from.
type loaded struct {
	*gateway.Table
	name string
	text []byte
}

func loadTable(config Config) (loaded, error) {
	name, text, err := ReadRoutes(config.RoutesFile)
	if err != nil {
		return loaded{}, err
	}
	table, err := ParseRoutes(name, text, config.Lookup)
	return loaded{table, name, text}, err
}

// newLoader makes what replaces the route table while the gateway runs.
func newLoader(config Config, process *Process, table loaded, b broker.Broker, g *gateway.Gateway, at *endpoint) (*reload.Loader, error) {
	return reload.New(reload.Config{
		File: config.RoutesFile, Name: table.name, Text: table.text, Table: table.Table,
		Parse: func(name string, text []byte) (*gateway.Table, error) { return ParseRoutes(name, text, config.Lookup) },
		Apply: func(ctx context.Context, table *gateway.Table) error {
			if err := checkOpen(config, table, at); err != nil {
				return err
			}
			if topics := table.Topics(); len(topics) > 0 {
				if err := b.Ensure(ctx, topics...); err != nil {
					return err
				}
			}
			return g.SetTable(table)
		},
		Registerer: process.Registry, Logger: process.Logger,
	})
}

func newCommitter(l lifecycle, b broker.Broker) *broker.Committer {
	c := broker.NewCommitter(b, 0)
	l.Hooks.Append(fx.StopHook(c.Close))
	return c
}

func newGateway(
	config Config, process *Process, table loaded, committer *broker.Committer, b broker.Broker, reader *saga.Reader, keys keyFinder, hooks *webhook.Store, in *intake.Intake,
) (*gateway.Gateway, error) {
	messages, err := AsyncAPI(asyncapi.Broker(config.Broker.Name), Gateway)
	if err != nil {
		return nil, err
	}
	var resources []gateway.Resource
	described := [][]byte{route.OpenAPI()}
	if hooks != nil {
		resources, described = hooks.Resources(config.Webhooks.Anonymous), append(described, webhook.OpenAPI())
	}
	settings := gateway.Config{
		Secret: config.Secret, Hosts: config.Edge.Hosts, AsyncAPI: messages, Durability: config.Broker.Durability,
		Registerer: process.Registry, Logger: process.Logger,
	}
	deps := gateway.Deps{
		Publisher: committer, Operations: operations{reader}, Lookup: b.Lookup, Keys: keys, Source: b, Resources: resources, Described: described,
	}
	if in != nil {
		deps.Intake = in
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if settings.IntakeDurability, err = in.Durability(ctx); err != nil {
			return nil, err
		}
	}
	return gateway.New(settings, table.Table, deps)
}

// runGateway ensures the topics that commands and signals go to, follows outcomes and serves.
func runGateway(l lifecycle, config Config, process *Process, b broker.Broker, g *gateway.Gateway, loader *reload.Loader, at *endpoint, table loaded, models *aiRoute, _ *pgxpool.Pool) error {
	topics := append(table.Topics(), events.Outcomes, events.Signals)
	commands, err := startCommands()
	if err != nil {
		return err
	}
	for _, command := range commands {
		if command.Saga || command.Type == ai.RequestCompletion.Type() {
			topics = append(topics, command.Topic)
		}
	}
	l.Hooks.Append(fx.Hook{
		OnStart: func(ctx context.Context) error { return b.Ensure(ctx, topics...) },
		OnStop:  g.Close, // after the server, which is stopped before what was started earlier
	})
	if table.AcceptsByOutbox() {
		process.Health.Note("broker/"+Gateway, b.Ping)
	} else {
		process.Health.Add("broker/"+Gateway, b.Ping)
	}
	l.run("routes", loader.Run)
	loader.Register(process.Admin, admin.Protect)
	l.run("outcomes", func(ctx context.Context) error { return followOutcomes(ctx, process, b, g) })
	listener, err := listen(context.Background(), process.Logger, "http", config.HTTPAddr, DefaultHTTPAddr)
	if err != nil {
		return err
	}
	at.url = "http://" + listener.Addr().String()
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
		at.loopback = tcp.IP.IsLoopback()
	}
	if err := checkOpen(config, table.Table, at); err != nil {
		return errors.Join(err, listener.Close())
	}
	at.open = table.Open()
	l.serve("http", gateway.NewServer("", models.before(g), process.Logger), gateway.LimitConnections(listener, config.Edge.Connections), func(ctx context.Context, server *http.Server) error {
		process.Health.SetDraining()
		return g.Shutdown(ctx, server, config.Edge.DrainDelay)
	})
	return nil
}

// checkOpen refuses a table that does not say who may send requests, on an address
// that others reach, unless that is what was asked for.
func checkOpen(config Config, table *gateway.Table, at *endpoint) error {
	if table.SaysDefault() || at.loopback || config.Edge.Open {
		return nil
	}
	return fmt.Errorf("the route table asks nobody for a credential, and %s is not on loopback: "+
		"set auth: {default: key} in the table, or auth: {default: none} or COUNTERMAND_OPEN=true to serve everybody", at.url)
}

// followOutcomes keeps a reader on the outcomes' tail. What is missed while it
// is away is found by the waiting requests' own polling.
func followOutcomes(ctx context.Context, process *Process, b broker.Broker, g *gateway.Gateway) error {
	for ctx.Err() == nil {
		reader, err := b.Tail(ctx, events.Outcomes)
		if err == nil {
			err = g.ListenOutcomes(ctx, reader, outcomeOf)
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
