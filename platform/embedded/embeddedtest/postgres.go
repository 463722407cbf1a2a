package embeddedtest

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres creates an empty database for this test and returns the URL to
// connect to it as superuser. The database is dropped when the test ends,
// connections to it closed. The test fails when there is no server to be had or
// when TestMain does not call [Main]. It may be called from several tests at a
// time, and several times in one.
func Postgres(t testing.TB) string {
	t.Helper()
	admin, err := shared.adminURL()
	if err != nil {
		t.Fatalf("embeddedtest: no postgres for this test: %v", err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	database, err := withDatabase(admin, name)
	if err != nil {
		t.Fatalf("embeddedtest: use %s: %v", DatabaseURLEnv, err)
	}
	// Nobody can be connected to template0 and so be in the way of a copy.
	if err := adminExec(t.Context(), admin, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		t.Fatalf("embeddedtest: create database %s: %v", name, err)
	}
	t.Cleanup(func() {
		// The context of the test has ended by now.
		if err := adminExec(context.WithoutCancel(t.Context()), admin, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("embeddedtest: drop database %s: %v", name, err)
		}
	})
	return database
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

func adminExec(ctx context.Context, admin, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	// A statement that went well is not undone by a connection that does not
	// close well.
	_ = conn.Close(ctx)
	return err
}
