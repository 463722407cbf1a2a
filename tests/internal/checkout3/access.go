package checkout3

import "github.com/jackc/pgx/v5/pgxpool"

// EnginePool is the pool on the engine's database.
func (s *System) EnginePool() *pgxpool.Pool { return s.pools[0] }
