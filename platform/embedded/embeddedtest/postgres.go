package embeddedtest

import (
	"context"
	"errors"
	"net/url"
	"testing"
)

// Postgres creates an empty database for this test and returns the URL to
// connect to it as superuser. When the test ends, the database is gone for it,
// connections to it closed. The test fails when there is no server to be had or
// when TestMain does not call [Main]. It may be called from several tests at a
// time, and several times in one.
func Postgres(t testing.TB) string {
	t.Helper()
	return PostgresWith(t, "", nil)
}

// PostgresWith is [Postgres] for a database that is as create leaves it. tables stands
// for what create does: it is not called for each database, but for the first ones of
// those tables, and a database in which a test has changed rows or made tables is set
// back for another one.
func PostgresWith(t testing.TB, tables string, create func(ctx context.Context, url string) error) string {
	t.Helper()
	admin, err := shared.adminURL()
	if err != nil {
		t.Fatalf("embeddedtest: no postgres for this test: %v", err)
	}
	db, err := shared.databases.take(t.Context(), admin, tables, create)
	if err != nil {
		t.Fatalf("embeddedtest: %v", err)
	}
	t.Cleanup(func() {
		// The context of the test has ended by now.
		if err := shared.databases.giveBack(context.WithoutCancel(t.Context()), admin, db); err != nil {
			t.Errorf("embeddedtest: %v", err)
		}
	})
	url, err := withDatabase(admin, db.name)
	if err != nil {
		t.Fatalf("embeddedtest: use %s: %v", DatabaseURLEnv, err)
	}
	return url
}

// withDatabase returns the URL with another database in it.
func withDatabase(server, database string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		// The error of url.Parse quotes its input, password included.
		return "", errors.New("not a URL")
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", errors.New("not a postgres:// URL")
	}
	u.Path, u.RawPath = "/"+database, ""
	query := u.Query()
	query.Del("dbname")
	query.Del("database")
	u.RawQuery = query.Encode()
	return u.String(), nil
}
