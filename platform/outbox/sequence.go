package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrUnordered means that the ids of the outbox are not given out in order, so that
// events of one key could be published in another order than they were committed in.
var ErrUnordered = errors.New("outbox ids are not given out in order")

// CheckSequence looks at the sequence of the outbox's ids, which somebody may have
// altered or restored from elsewhere. Call it at start.
func CheckSequence(ctx context.Context, pool *pgxpool.Pool) error {
	var (
		cache, increment int64
		cycle            bool
	)
	err := pool.QueryRow(ctx, "select seqcache, seqincrement, seqcycle from pg_sequence where seqrelid = 'outbox_id'::regclass").
		Scan(&cache, &increment, &cycle)
	switch {
	case err != nil:
		return fmt.Errorf("read the sequence of the outbox: %w", err)
	case cache > 1:
		return fmt.Errorf("%w: each connection takes %d of them ahead; mend it: alter sequence outbox_id cache 1", ErrUnordered, cache)
	case increment < 1 || cycle:
		return fmt.Errorf("%w: the sequence goes backwards or begins again; mend it: alter sequence outbox_id increment 1 no cycle", ErrUnordered)
	}
	return nil
}
