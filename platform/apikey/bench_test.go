package apikey_test

import (
	"testing"
	"time"

	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

// BenchmarkFind is what recognising a key costs that is in memory, with a question to
// the database every two seconds.
func BenchmarkFind(b *testing.B) {
	pool := postgrestest.Open(b, postgres.Config{}, postgres.MigrationSet{Owner: "apikey", FS: apikey.Migrations()})
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
