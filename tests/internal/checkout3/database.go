package checkout3

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/tests/internal/meter"
)

// Database is the Postgres under measurement.
type Database struct {
	Admin *pgx.Conn

	url      string
	embedded *embedded.Postgres // nil: somebody else's
}

// StartDatabase connects to the Postgres at adminURL, or starts a private one in
// dir when that is empty.
func StartDatabase(ctx context.Context, dir, adminURL string) (_ *Database, err error) {
	d := &Database{url: adminURL}
	if adminURL == "" {
		d.embedded, err = embedded.StartPostgres(ctx, embedded.PostgresConfig{DataDir: filepath.Join(dir, "postgres")})
		if err != nil {
			return nil, err
		}
		d.url = d.embedded.AdminURL()
	}
	if d.Admin, err = pgx.Connect(ctx, d.url); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// Version returns the server's version.
func (d *Database) Version(ctx context.Context) (version string, err error) {
	err = d.Admin.QueryRow(ctx, "show server_version").Scan(&version)
	return version, err
}

// Usage reads what this process, so the load generator is in it, and the server
// have used.
func (d *Database) Usage(ctx context.Context) (meter.Usage, error) {
	return meter.Read(ctx, d.Admin, os.Getpid(), "^bench_")
}

// Stop closes the connection and stops a private server.
func (d *Database) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.Admin != nil {
		_ = d.Admin.Close(ctx)
	}
	if d.embedded != nil {
		return d.embedded.Stop(ctx)
	}
	return nil
}

// Open drops and makes a database with those tables and returns a pool on it.
func (d *Database) Open(ctx context.Context, database string, params map[string]string, sets ...postgres.MigrationSet) (*pgxpool.Pool, error) {
	for _, statement := range []string{"drop database if exists " + database + " with (force)", "create database " + database} {
		if _, err := d.Admin.Exec(ctx, statement); err != nil {
			return nil, fmt.Errorf("%s: %w", statement, err)
		}
	}
	at, err := url.Parse(d.url)
	if err != nil {
		return nil, errors.New("the administrator's URL must have the form postgres://user:password@host:port/database")
	}
	at.Path = "/" + database
	pool, err := postgres.Open(ctx, postgres.Config{URL: at.String(), Params: params, MaxConns: conns})
	if err != nil {
		return nil, err
	}
	if err := postgres.Migrate(ctx, pool, sets...); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}
