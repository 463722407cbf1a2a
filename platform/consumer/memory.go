package consumer

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
)

// Memory is how a consumer tells a message that it has handled before, when it comes
// again by other ways than its position: by a redrive, or by a replay.
type Memory string

// The kinds of memory.
const (
	MemoryNone  Memory = "none"  // not at all: its effects are made again
	MemoryInbox Memory = "inbox" // by the inbox, which a replay may pass by
	MemoryOwn   Memory = "own"   // by means of its own, which a replay cannot pass by
)

// Rememberer is a [Processor] that says how it tells. One that is none has
// [MemoryNone].
type Rememberer interface {
	Memory() Memory
}

// announce writes down that a consumer reads those topics, for whoever replays.
func announce(ctx context.Context, pool *pgxpool.Pool, name string, topics []events.Topic, processor Processor) error {
	memory := MemoryNone
	if r, ok := processor.(Rememberer); ok {
		memory = r.Memory()
	}
	_, err := pool.Exec(ctx, `
		insert into consumer_topic (consumer, topic, memory)
		select $1, topic, $3 from unnest($2::text[]) as t (topic)
		on conflict (consumer, topic) do update set memory = excluded.memory, seen_at = clock_timestamp()`, name, topics, memory)
	if err != nil {
		return fmt.Errorf("announce consumer %s: %w", name, err)
	}
	return nil
}
