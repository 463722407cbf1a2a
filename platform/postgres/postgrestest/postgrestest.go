// Package postgrestest opens databases with the tables of migrations, for tests. Their
// packages need the TestMain of embeddedtest.
package postgrestest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

// Open returns a pool on what [URL] names, with config for the rest. It is closed when
// the test ends.
func Open(t testing.TB, config postgres.Config, sets ...postgres.MigrationSet) *pgxpool.Pool {
	t.Helper()
	config.URL = URL(t, sets...)
	pool, err := postgres.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// URL names a database of the test's own with the tables of the sets, as
// [postgres.Migrate] makes them.
func URL(t testing.TB, sets ...postgres.MigrationSet) string {
	t.Helper()
	tables, err := digest(sets)
	if err != nil {
		t.Fatal(err)
	}
	return embeddedtest.PostgresWith(t, tables, func(ctx context.Context, url string) error {
		pool, err := postgres.Open(ctx, postgres.Config{URL: url})
		if err != nil {
			return err
		}
		defer pool.Close()
		return postgres.Migrate(ctx, pool, sets...)
	})
}

// digest stands for the files of the sets.
func digest(sets []postgres.MigrationSet) (string, error) {
	sum := sha256.New()
	for _, set := range sets {
		fmt.Fprintf(sum, "%s\n", set.Owner)
		err := fs.WalkDir(set.FS, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := fs.ReadFile(set.FS, path)
			fmt.Fprintf(sum, "%s %d\n%s", path, len(content), content)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("migrations of %s: %w", set.Owner, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
