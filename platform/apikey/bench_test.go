package apikey_test

import (
	"testing"
	"time"

	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

// BenchmarkFind is what recognising a key costs that is in memory, with a question to
// the database every two seconds.
func BenchmarkFind(b *testing.B) {
	pool, err := postgres.Open(b.Context(), postgres.Config{URL: embeddedtest.Postgres(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	if err := postgres.Migrate(b.Context(), pool, postgres.MigrationSet{Owner: "apikey", FS: apikey.Migrations()}); err != nil {
		b.Fatal(err)
	}
	store := apikey.NewStore(pool)
	ends := time.Now().Add(time.Hour)
	_, text, err := store.Create(b.Context(), apikey.NewKey{Tenant: "acme", Client: "shop", By: "ada", ExpiresAt: &ends})
	if err != nil {
		b.Fatal(err)
	}
	keyring := apikey.NewKeyring(store, apikey.KeyringConfig{})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := keyring.Find(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}
