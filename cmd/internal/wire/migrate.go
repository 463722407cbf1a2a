package wire

import (
	"context"
	"fmt"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/participant"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/gateway/intake"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/schedule"
	"github.com/countermand/countermand/platform/webhook"
	"github.com/countermand/countermand/services/inventory"
	"github.com/countermand/countermand/services/order"
	"github.com/countermand/countermand/services/payment"
)

// migrations returns the schemas of a role's database.
func migrations(role string) []postgres.MigrationSet {
	if role == Gateway {
		return []postgres.MigrationSet{
			{Owner: "apikey", FS: apikey.Migrations()},
			{Owner: "outbox", FS: outbox.Migrations()},
			{Owner: "intake", FS: intake.Migrations()},
			{Owner: "consumer", FS: consumer.Migrations()},
			{Owner: "webhook", FS: webhook.Migrations()},
		}
	}
	own := map[string]postgres.MigrationSet{
		Engine:    {Owner: "saga", FS: saga.Migrations()},
		Order:     {Owner: "shop_order", FS: order.Migrations()},
		Payment:   {Owner: "shop_payment", FS: payment.Migrations()},
		Inventory: {Owner: "shop_inventory", FS: inventory.Migrations()},
		AI:        {Owner: "ai_budget", FS: budget.Migrations()},
	}
	set, ok := own[role]
	if !ok {
		return nil
	}
	sets := []postgres.MigrationSet{
		{Owner: "outbox", FS: outbox.Migrations()},
		{Owner: "consumer", FS: consumer.Migrations()},
		set,
	}
	if role == AI {
		sets = append(sets,
			postgres.MigrationSet{Owner: "ai_prompt", FS: prompt.Migrations()},
			postgres.MigrationSet{Owner: "ai_call", FS: participant.Migrations()})
	}
	if role == Engine {
		sets = append(sets, postgres.MigrationSet{Owner: "schedule", FS: schedule.Migrations()})
	}
	return sets
}

// Migrate brings the database of a role up to date.
func Migrate(ctx context.Context, role, databaseURL string) error {
	sets := migrations(role)
	if sets == nil {
		return fmt.Errorf("role %q owns no database", role)
	}
	pool, err := postgres.Open(ctx, postgres.Config{URL: databaseURL, ApplicationName: "migrate"})
	if err != nil {
		return fmt.Errorf("migrate %s: %w", role, err)
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool, sets...); err != nil {
		return fmt.Errorf("migrate %s: %w", role, err)
	}
	return nil
}
