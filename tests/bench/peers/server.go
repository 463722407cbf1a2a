package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/tests/internal/meter"
)

// server is the Postgres that all engines run on: the embedded one as it is
// shipped, fsync on.
type server struct {
	dir      string
	postgres *embedded.Postgres
	admin    *pgx.Conn
	version  string
}

func startServer(ctx context.Context) (_ *server, err error) {
	s := &server{}
	defer func() {
		if err != nil {
			s.stop(ctx)
		}
	}()
	if s.dir, err = os.MkdirTemp("", "countermand-peers-"); err != nil {
		return nil, err
	}
	if s.postgres, err = embedded.StartPostgres(ctx, embedded.PostgresConfig{DataDir: filepath.Join(s.dir, "postgres")}); err != nil {
		return nil, err
	}
	if s.admin, err = pgx.Connect(ctx, s.postgres.AdminURL()); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := s.admin.QueryRow(ctx, "show server_version").Scan(&s.version); err != nil {
		return nil, fmt.Errorf("read the version of the server: %w", err)
	}
	return s, nil
}

// stop ends the server, also when ctx has ended.
func (s *server) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if s.admin != nil {
		_ = s.admin.Close(ctx)
	}
	if s.postgres != nil {
		if err := s.postgres.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "peers:", err)
		}
	}
	_ = os.RemoveAll(s.dir)
}

// createDatabase makes an empty database and returns its URL.
func (s *server) createDatabase(ctx context.Context, name string) (string, error) {
	if _, err := s.admin.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()+" template template0"); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	u, err := url.Parse(s.postgres.AdminURL())
	if err != nil {
		return "", fmt.Errorf("URL of database %s: %w", name, err)
	}
	u.Path = "/" + name
	return u.String(), nil
}

// drop removes databases, so that their autovacuum does not run in the next
// engine's time, and writes out what is dirty, for the same reason.
func (s *server) drop(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := s.admin.Exec(ctx, "drop database "+pgx.Identifier{name}.Sanitize()+" with (force)"); err != nil {
			return fmt.Errorf("drop database %s: %w", name, err)
		}
	}
	if _, err := s.admin.Exec(ctx, "checkpoint"); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// usage is what has been used so far: by this process, in which the engine, its
// participants and the load generator are, and by Postgres.
func (s *server) usage(ctx context.Context) (meter.Usage, error) {
	return meter.Read(ctx, s.admin, os.Getpid(), "^(peer|bench)_")
}
