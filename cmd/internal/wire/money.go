package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/operate"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/ai/prompt/examples"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

// money is what keeps AI calls within budgets, and the prompts beside it. In one
// process all roles share it.
type money struct {
	Keeper  *budget.Keeper
	Prices  *price.Book
	Prompts *prompt.Store // nil: there is no database of AI calls
}

// newPrices reads the price overlay that COUNTERMAND_AI_PRICES names.
func newPrices() (*price.Book, error) {
	var overlay price.Overlay
	if file := os.Getenv("COUNTERMAND_AI_PRICES"); file != "" {
		var err error
		if overlay, err = price.ReadOverlay(file); err != nil {
			return nil, fmt.Errorf("COUNTERMAND_AI_PRICES: %w", err)
		}
	}
	return price.New(overlay)
}

// keepMoney makes what keeps budgets on a database and runs it with the role.
func keepMoney(l lifecycle, config Config, process *Process, pool *pgxpool.Pool, wake func()) (money, error) {
	prices, err := newPrices()
	if err != nil {
		return money{}, err
	}
	keeper, err := budget.New(pool, budget.Config{
		Prices: prices, Name: config.Role, Wake: wake, NoCallEvents: !config.AICallEvents, Logger: process.Logger, Metrics: process.Registry,
	})
	if err != nil {
		return money{}, err
	}
	l.run("ai-budgets", keeper.Run)
	m := money{Keeper: keeper, Prices: prices, Prompts: prompt.NewStore(pool, wake)}
	process.money = &m
	return m, nil
}

// newMoney gives the gateway what the role of AI calls in this process keeps, or what
// it keeps itself on the database of COUNTERMAND_AI_DATABASE_URL. Without one every
// call is let through, and nothing is counted.
func newMoney(l lifecycle, config Config, process *Process) (money, error) {
	if process.money != nil {
		return *process.money, nil
	}
	if config.AIDatabaseURL == "" {
		prices, err := newPrices()
		if err != nil {
			return money{}, err
		}
		return money{Keeper: budget.Unkept(prices), Prices: prices}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := postgres.Open(ctx, postgres.Config{URL: config.AIDatabaseURL, ApplicationName: "countermand-" + config.Role, MaxConns: 8})
	if err != nil {
		return money{}, fmt.Errorf("the database of AI calls: %w", err)
	}
	if err := postgres.CheckSchema(ctx, pool, migrations(AI)...); err != nil && !errors.Is(err, postgres.ErrSchemaNewer) {
		pool.Close()
		return money{}, fmt.Errorf("the database of AI calls: %w", err)
	}
	process.Health.Add("postgres/"+AI, pool.Ping)
	l.Hooks.Append(fx.StopHook(pool.Close))
	return keepMoney(l, config, process, pool, func() {}) // relays of the role of AI calls look by themselves
}

func aiGraph() fx.Option {
	return fx.Options(
		fx.Provide(func(l lifecycle, config Config, process *Process, pool *pgxpool.Pool, relay *outbox.Relay) (money, error) {
			return keepMoney(l, config, process, pool, relay.Wake)
		}),
		fx.Provide(newAI),
		fx.Invoke(runAI),
	)
}

// runAI obeys the commands about AI calls, and serves those who look after their money.
func runAI(l lifecycle, config Config, process *Process, pool *pgxpool.Pool, b broker.Broker, send senders, m money, models *aiRoute) error {
	l.Hooks.Append(fx.StartHook(func(ctx context.Context) error {
		// An event to a topic that does not exist would hold up the outbox.
		if err := b.Ensure(ctx, append(budget.Topics(), prompt.Topics()...)...); err != nil {
			return err
		}
		return publishExamples(ctx, m.Prompts)
	}))
	operate.Register(process.Admin, operate.Config{Keeper: m.Keeper, Prices: m.Prices, Prompts: m.Prompts, Protect: admin.Protect, Logger: process.Logger})
	service := newAIParticipant(process, pool, send.Relay.Wake, m, models)
	check, err := payloadCheck(config)
	if err != nil {
		return err
	}
	commands, err := consumer.NewCommands(pool, consumer.CommandsConfig{
		Name: AI, Wake: send.Relay.Wake, Replies: send.Dispatcher, Window: config.Consumer.InboxWindow, Logger: process.Logger, Check: check,
	}, service.Handlers()...)
	if err != nil {
		return err
	}
	l.run(AI+"-inbox", commands.RunRetention)
	err = runFeed(l, AI, process, pool, b, send, commands, consumer.FeedConfig{Name: AI, Topics: commands.Topics()})
	if err != nil {
		return err
	}
	l.run(AI+"-calls", service.Run)
	return nil
}

// publishExamples publishes the prompts to begin with where there are none at all.
func publishExamples(ctx context.Context, prompts *prompt.Store) error {
	listed, err := prompts.List(ctx, "")
	if err != nil || len(listed) > 0 {
		return err
	}
	all, err := examples.All()
	if err != nil {
		return err
	}
	for _, p := range all {
		if _, err := prompts.Publish(ctx, "", p); err != nil {
			return err
		}
	}
	return nil
}
