package consumer

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// SessionParams are settings for the connections of a participant's pool. The
// statements of this package and most of a participant's look rows up by key, and
// are planned once: a plan for the very values costs as much as running it.
func SessionParams() map[string]string {
	return map[string]string{"plan_cache_mode": "force_generic_plan"}
}

// loadPositions returns the stored positions of those partitions, creating the
// ones that are missing. A topic that was made anew since (its epoch changed)
// begins at its start; the inbox recognises what was handled before.
func loadPositions(ctx context.Context, pool *pgxpool.Pool, b broker.Broker, log *slog.Logger,
	name string, topics []events.Topic, partitions []int,
) (map[Source]uint64, error) {
	positions := make(map[Source]uint64)
	for _, topic := range topics {
		epoch, err := b.Epoch(ctx, topic)
		if err != nil {
			return nil, err
		}
		rows, err := pool.Query(ctx, `
			insert into consumer_position as p (consumer, topic, partition, epoch, handled)
			select $1, $2, partition, $4, 0 from unnest($3::integer[]) as n (partition)
			on conflict (consumer, topic, partition) do update set
				handled = case when p.epoch = excluded.epoch then p.handled else 0 end,
				updated_at = case when p.epoch = excluded.epoch then p.updated_at else clock_timestamp() end,
				epoch = excluded.epoch
			returning partition, handled`, name, topic, partitions, epoch)
		if err != nil {
			return nil, fmt.Errorf("load positions of %s: %w", topic, err)
		}
		var (
			partition int
			handled   int64
		)
		_, err = pgx.ForEachRow(rows, []any{&partition, &handled}, func() error {
			positions[Source{topic, partition}] = uint64(handled)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("load positions of %s: %w", topic, err)
		}
		log.DebugContext(ctx, "consumer positions loaded", "consumer", name, "topic", topic, "epoch", epoch, "partitions", len(partitions))
	}
	return positions, nil
}
