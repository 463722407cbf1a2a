package apikey_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

type rig struct {
	*apikey.Store
	t    *testing.T
	pool *pgxpool.Pool
}

func setup(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	pool := open(t, postgrestest.URL(t, postgres.MigrationSet{Owner: "apikey", FS: apikey.Migrations()}))
	return &rig{apikey.NewStore(pool), t, pool}
}

func open(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: databaseURL, ApplicationName: "keys", MaxConns: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// keyring returns one that believes the store for 30 ms.
func (r *rig) keyring(config apikey.KeyringConfig) *apikey.Keyring {
	config.Logger = slog.New(slog.DiscardHandler)
	keyring := apikey.NewKeyring(r.Store, config)
	keyring.Believe(30 * time.Millisecond)
	return keyring
}

func (r *rig) create(change ...func(*apikey.NewKey)) (apikey.Key, string) {
	r.t.Helper()
	n := apikey.NewKey{Tenant: "acme", Client: "shop", Scopes: []string{"orders:write"}, By: "ada"}
	for _, change := range change {
		change(&n)
	}
	key, text, err := r.Create(r.t.Context(), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return key, text
}

// wantRefusal fails the test when err is none with that code.
func wantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	if refused, ok := errors.AsType[*apikey.RefusalError](err); !ok || refused.Code != code {
		t.Errorf("error %v, want one with the code %s", err, code)
	}
}

// becomes waits until the keyring says that of a text.
func becomes(t *testing.T, keyring *apikey.Keyring, text string, want error) {
	t.Helper()
	var err error
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if _, _, err = keyring.Find(t.Context(), text); errors.Is(err, want) {
			return
		}
	}
	t.Fatalf("the keyring says %v for 10 s, want %v", err, want)
}

func TestAKeyIsFoundByWhatItIs(t *testing.T) {
	r := setup(t)
	key, text := r.create()
	if !regexp.MustCompile("^"+apikey.Pattern+"$").MatchString(text) || !apikey.Looks(text) || text[4:14] != key.ID {
		t.Errorf("key %q of id %q", text, key.ID)
	}
	var stored int
	if err := r.pool.QueryRow(t.Context(), "select count(*) from api_key where api_key::text like '%' || $1 || '%'", text[15:]).Scan(&stored); err != nil || stored > 0 {
		t.Errorf("the secret is in %d rows, %v", stored, err)
	}
	keyring := r.keyring(apikey.KeyringConfig{})
	found, digest, err := keyring.Find(t.Context(), text)
	if diff := cmp.Diff(key, found); diff != "" || err != nil {
		t.Errorf("found (-want +got):\n%s%v", diff, err)
	}
	if again, err := keyring.Check(t.Context(), digest); again.ID != key.ID || err != nil {
		t.Errorf("checked %+v, %v", again, err)
	}
	// A text that was not made is told by its checksum, one that was made elsewhere by the store.
	forged := "cmk_" + key.ID + "_" + strings.Repeat("x", 32)
	for _, wrong := range []string{"", "cmk_", text + "0", text[:len(text)-1] + "_", strings.ToLower(text), forged + "000000", forged + apikey.Checksum(forged)} {
		if _, _, err := keyring.Find(t.Context(), wrong); !errors.Is(err, apikey.ErrUnknown) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if known, unknown := keyring.Held(); known != 1 || unknown != 1 {
		t.Errorf("holds %d keys and %d others, want 1 and 1: the checksum spares the store a question", known, unknown)
	}
}

func TestAClientHasTwoKeysAtMost(t *testing.T) {
	r := setup(t)
	var made, refused sync.Map
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			_, _, err := r.Create(t.Context(), apikey.NewKey{Tenant: "acme", Client: "shop", By: "ada"})
			if err == nil {
				made.Store(i, true)
			} else {
				refused.Store(i, err)
			}
		})
	}
	all.Wait()
	n := 0
	made.Range(func(any, any) bool { n++; return true })
	if n != apikey.LiveMax {
		t.Errorf("%d keys were made at once, want %d", n, apikey.LiveMax)
	}
	refused.Range(func(_, err any) bool { wantRefusal(t, err.(error), "too_many_keys"); return true })
	r.create(func(n *apikey.NewKey) { n.Client = "other" })
	r.create(func(n *apikey.NewKey) { n.Tenant = "other" })
	keys, err := r.List(t.Context(), apikey.Filter{Tenant: "acme", Client: "shop"})
	if err != nil || len(keys) != apikey.LiveMax {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	if _, err := r.Revoke(t.Context(), keys[0].ID, "ada", "leaked"); err != nil {
		t.Fatal(err)
	}
	r.create()
}

func TestRotate(t *testing.T) {
	r := setup(t)
	ends := time.Now().Add(48 * time.Hour)
	old, oldText := r.create(func(n *apikey.NewKey) { n.ExpiresAt, n.Note = &ends, "till" })
	fresh, text, err := r.Rotate(t.Context(), old.ID, 150*time.Millisecond, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Client != "shop" || fresh.Note != "till" || len(fresh.Scopes) != 1 || fresh.CreatedBy != "bob" ||
		time.Until(*fresh.ExpiresAt).Round(time.Hour) != 48*time.Hour {
		t.Errorf("the new key is %+v", fresh)
	}
	_, _, err = r.Rotate(t.Context(), fresh.ID, 0, "bob")
	wantRefusal(t, err, "too_many_keys") // the old one is still in force
	keyring := r.keyring(apikey.KeyringConfig{})
	if _, _, err := keyring.Find(t.Context(), oldText); err != nil {
		t.Errorf("the old key within the overlap: %v", err)
	}
	becomes(t, keyring, oldText, apikey.ErrExpired)
	if _, _, err := keyring.Find(t.Context(), text); err != nil {
		t.Errorf("the new key: %v", err)
	}
	got, err := r.Get(t.Context(), old.ID)
	if err != nil || got.ReplacedBy != fresh.ID {
		t.Errorf("the old key is %+v, %v", got, err)
	}
	_, _, err = r.Rotate(t.Context(), old.ID, 0, "bob")
	wantRefusal(t, err, "key_ended")
	_, _, err = r.Rotate(t.Context(), "nobody", 0, "bob")
	wantRefusal(t, err, "key_not_found")
}

func TestARevokedKeyIsRefusedByEveryKeyring(t *testing.T) {
	r := setup(t)
	key, text := r.create()
	keyrings := []*apikey.Keyring{r.keyring(apikey.KeyringConfig{}), r.keyring(apikey.KeyringConfig{})}
	for _, keyring := range keyrings {
		becomes(t, keyring, text, nil)
	}
	if _, err := r.Revoke(t.Context(), key.ID, "ada", "leaked"); err != nil {
		t.Fatal(err)
	}
	for _, keyring := range keyrings {
		becomes(t, keyring, text, apikey.ErrRevoked)
	}
	again, err := r.Revoke(t.Context(), key.ID, "bob", "again")
	if err != nil || again.RevokedBy != "ada" || again.Reason != "leaked" {
		t.Errorf("revoked again: %+v, %v", again, err)
	}
	if keys, err := r.List(t.Context(), apikey.Filter{Ended: true}); err != nil || len(keys) != 1 {
		t.Errorf("%d keys with the ended ones, %v", len(keys), err)
	}
	if apikey.FreshFor > 5*time.Second {
		t.Error("a revoked key is to be refused within seconds")
	}
}

func TestKnownKeysAreTakenForAWhileWithoutTheStore(t *testing.T) {
	r := setup(t)
	_, text := r.create()
	_, other := r.create()
	for _, test := range []struct {
		grace time.Duration
		want  error
	}{{time.Hour, nil}, {-1, apikey.ErrUnavailable}} {
		pool := open(t, databaseURL(r.pool))
		keyring := apikey.NewKeyring(apikey.NewStore(pool), apikey.KeyringConfig{Grace: test.grace, Logger: slog.New(slog.DiscardHandler)})
		keyring.Believe(time.Nanosecond)
		becomes(t, keyring, text, nil)
		pool.Close() // as a database that does not answer
		for range 3 {
			if _, _, err := keyring.Find(t.Context(), text); !errors.Is(err, test.want) {
				t.Errorf("a known key with a grace of %s: %v", test.grace, err)
			}
		}
		if _, _, err := keyring.Find(t.Context(), other); !errors.Is(err, apikey.ErrUnavailable) {
			t.Errorf("a key that was not known: %v", err)
		}
	}
}

// databaseURL returns the URL of a pool's database.
func databaseURL(pool *pgxpool.Pool) string { return pool.Config().ConnString() }

func TestAKeyringIsBounded(t *testing.T) {
	r := setup(t)
	_, mine := r.create()
	keyring := r.keyring(apikey.KeyringConfig{Size: 4})
	becomes(t, keyring, mine, nil)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			body := fmt.Sprintf("cmk_%010d_%032d", i, i)
			if _, _, err := keyring.Find(t.Context(), body+apikey.Checksum(body)); !errors.Is(err, apikey.ErrUnknown) {
				t.Errorf("a forged key: %v", err)
			}
		})
	}
	all.Wait()
	if known, unknown := keyring.Held(); known != 1 || unknown > 4 {
		t.Errorf("holds %d keys and %d others: forged keys must not push out real ones", known, unknown)
	}
	for i := range 9 {
		_, text := r.create(func(n *apikey.NewKey) { n.Client = strconv.Itoa(i) })
		becomes(t, keyring, text, nil)
	}
	if known, _ := keyring.Held(); known > 4 {
		t.Errorf("holds %d keys, want 4", known)
	}
}

func TestUseIsNoted(t *testing.T) {
	r := setup(t)
	key, text := r.create()
	keyring := r.keyring(apikey.KeyringConfig{})
	becomes(t, keyring, text, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := keyring.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get(t.Context(), key.ID); err != nil || got.LastUsedAt == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatKeysAreRefused(t *testing.T) {
	r := setup(t)
	past := time.Now().Add(-time.Second)
	for name, change := range map[string]func(*apikey.NewKey){
		"no tenant":      func(n *apikey.NewKey) { n.Tenant = "" },
		"a path":         func(n *apikey.NewKey) { n.Client = "a/b" },
		"a quoted scope": func(n *apikey.NewKey) { n.Scopes = []string{`a"b`} },
		"an empty scope": func(n *apikey.NewKey) { n.Scopes = []string{""} },
		"scopes":         func(n *apikey.NewKey) { n.Scopes = make([]string, 65) },
		"a note":         func(n *apikey.NewKey) { n.Note = strings.Repeat("x", 257) },
		"the past":       func(n *apikey.NewKey) { n.ExpiresAt = &past },
	} {
		n := apikey.NewKey{Tenant: "acme", Client: "shop", By: "ada"}
		change(&n)
		_, _, err := r.Create(t.Context(), n)
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		wantRefusal(t, err, "invalid_key")
	}
}
