package share

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Connect takes a connection out of the pool for good, to hold advisory locks
// on. The caller closes it, which frees the locks.
func Connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect for ownership: %w", err)
	}
	return conn.Hijack(), nil
}
