package wire

import (
	"context"
	"fmt"
	_ "time/tzdata" // schedules name time zones, and images need not have them

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/schedule"
)

// Contracts lists the contracts of this binary: those that it has schemas of, and
// whose commands schedules may send. Add yours here.
func Contracts() []events.Contract { return append(shop.Contracts(), ai.Contracts()...) }

func scheduleGraph() fx.Option {
	return fx.Options(fx.Provide(newScheduler), fx.Invoke(runScheduler))
}

func newScheduler(pool *pgxpool.Pool, relay *outbox.Relay, process *Process) (*schedule.Scheduler, error) {
	commands, err := scheduleCommands()
	if err != nil {
		return nil, err
	}
	return schedule.New(pool, schedule.Config{
		Commands: commands, Ended: endedSagas(pool), Wake: relay.Wake, Logger: process.Logger, Metrics: process.Registry,
	})
}

// scheduleCommands returns what schedules may send.
func scheduleCommands() ([]schedule.Command, error) {
	var commands []schedule.Command
	starts := make(map[string]bool)
	for _, definition := range Definitions() {
		program, err := definition.Compile()
		if err != nil {
			return nil, fmt.Errorf("what schedules may start: %w", err)
		}
		if !starts[program.StartType] { // versions of one saga begin with the same command
			starts[program.StartType] = true
			commands = append(commands, schedule.Command{Type: program.StartType, Topic: program.Topic, Saga: true})
		}
	}
	for _, contract := range Contracts() {
		if d := contract.Describe(); d.Kind == events.KindCommand && !starts[d.Type] {
			commands = append(commands, schedule.Sends(contract))
		}
	}
	return commands, nil
}

// endedSagas looks into the engine's table. A saga that is stuck has not ended.
func endedSagas(pool *pgxpool.Pool) func(context.Context, []string) (map[string]bool, error) {
	return func(ctx context.Context, ids []string) (map[string]bool, error) {
		rows, err := pool.Query(ctx, `
			select id::text, status in ('completed', 'compensated', 'abandoned') from saga
			where id = any($1::text[]::uuid[])`, ids)
		if err != nil {
			return nil, fmt.Errorf("read sagas of schedules: %w", err)
		}
		known := make(map[string]bool, len(ids))
		var (
			id    string
			ended bool
		)
		_, err = pgx.ForEachRow(rows, []any{&id, &ended}, func() error {
			known[id] = ended
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read sagas of schedules: %w", err)
		}
		return known, nil
	}
}

func runScheduler(l lifecycle, process *Process, b broker.Broker, scheduler *schedule.Scheduler) error {
	commands, err := scheduleCommands()
	if err != nil {
		return err
	}
	var topics []events.Topic
	for _, c := range commands {
		topics = append(topics, c.Topic)
	}
	// A command to a topic that does not exist would hold up the outbox.
	l.Hooks.Append(fx.StartHook(func(ctx context.Context) error { return b.Ensure(ctx, topics...) }))
	l.run("schedules", scheduler.Run)
	schedule.Register(process.Admin, scheduler, admin.Protect, process.Logger)
	return nil
}
