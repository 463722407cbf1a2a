package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// open returns a pool on a fresh database.
func open(t *testing.T, cfg postgres.Config) *pgxpool.Pool {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = embeddedtest.Postgres(t)
	}
	pool, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
