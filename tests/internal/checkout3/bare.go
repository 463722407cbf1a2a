package checkout3

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Bare does what the participant does for one saga and nothing else: three
// transactions of one row each. With a commit for each command no engine can be
// faster, so its rate tells what the machine is worth.
type Bare struct{ pool *pgxpool.Pool }

// OpenBare connects to the participant's database.
func (s *System) OpenBare(ctx context.Context) (*Bare, error) {
	pool, err := pgxpool.NewWithConfig(ctx, s.pools[1].Config())
	if err != nil {
		return nil, fmt.Errorf("bare transactions: %w", err)
	}
	return &Bare{pool}, nil
}

// Run writes the rows and returns how long that took. It may be called by many
// goroutines.
func (b *Bare) Run(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for step := range 3 {
		id, err := uuid.NewV7()
		if err != nil {
			return 0, err
		}
		if _, err := b.pool.Exec(ctx, "insert into bare values ($1, $2)", id, step); err != nil {
			return 0, fmt.Errorf("bare transaction: %w", err)
		}
	}
	return time.Since(began), nil
}

// Close closes the connections, so that the server counts their commits.
func (b *Bare) Close() { b.pool.Close() }
