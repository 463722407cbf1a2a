package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// ErrInUse is wrapped by the errors of StartPostgres, RemovePostgres and
// StartNATS when another live process, or another part of this one, owns the
// data folder.
var ErrInUse = errors.New("in use")

// ErrUnsupported is wrapped by the errors of StartPostgres and RemovePostgres
// on an operating system that this package cannot run PostgreSQL on.
var ErrUnsupported = errors.New("embedded PostgreSQL is not supported on this operating system")

// PostgresConfig says where a private PostgreSQL server keeps its data and how
// it runs. Only DataDir is required; the zero value of every other field gives
// a durable server.
type PostgresConfig struct {
	// DataDir is the folder that holds everything the server owns: the
	// database cluster, its log, the superuser's password and the lock. It is
	// created when missing and must not be shared with anything else.
	DataDir string

	// NoSync turns fsync, synchronous commit and full page writes off. Data is
	// then lost or damaged when the machine stops unexpectedly: for tests only.
	NoSync bool

	// TCP makes the server listen on a random port of 127.0.0.1 instead of a
	// Unix socket. A Unix socket is the default, and the port the fallback
	// where no socket path is short enough for the operating system.
	TCP bool

	// MaxConnections is the server's max_connections; 0 means 200.
	MaxConnections int

	// Settings are further server settings by name. They win over the defaults
	// of this package, except for cluster_name and those that say where the
	// server listens.
	Settings map[string]string

	// CacheDir is where downloaded PostgreSQL binaries are kept between
	// starts. Empty means countermand/postgres in the user's cache folder, or
	// in /var/cache for root on Linux.
	CacheDir string

	// Logger receives what happens to the server; nil discards it. The
	// server's own log goes to postgres.log in DataDir.
	Logger *slog.Logger

	// Progress is told, in words for a person, about steps that take time,
	// such as a download. It is called from within StartPostgres only, one
	// call at a time. Nil discards them.
	Progress func(string)
}

// Postgres is a running private PostgreSQL server. Its methods may be called
// concurrently.
type Postgres struct {
	endpoint endpoint
	password string
	server   *serverProcess

	release  func()
	stopOnce sync.Once
	stopErr  error
}

// StartPostgres starts a PostgreSQL server on cfg.DataDir and returns when it
// accepts connections. The first start creates the database cluster, later ones
// reuse it after stopping a server that a dead owner left behind. It returns an
// error wrapping [ErrInUse] when a live process owns DataDir, and one that names
// the command to run when no PostgreSQL 14 or later can be found or fetched.
// ctx governs the start only; the server runs until Stop.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("start postgres: no data directory given")
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 200
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	p, err := startPostgres(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return p, nil
}

// RemovePostgres deletes a data folder of StartPostgres and all data in it,
// stopping a server that a dead owner left running there. A folder that does
// not exist is no error; one that a live process owns is left alone and gives
// an error wrapping [ErrInUse]. ctx bounds the wait for such a server to stop.
func RemovePostgres(ctx context.Context, dataDir string) error {
	if dataDir == "" {
		return errors.New("remove postgres: no data directory given")
	}
	if err := removePostgres(ctx, dataDir); err != nil {
		return fmt.Errorf("remove postgres: %w", err)
	}
	return nil
}

// URL returns the connection URL of a database on this server for a user with
// the given password. It works with pgx and libpq, in this process and in
// others of the same operating system user, for as long as the server runs; a
// new start may give another one.
func (p *Postgres) URL(database, user, password string) string {
	return p.endpoint.url(database, user, password)
}

// AdminURL returns the connection URL of the database postgres for the
// superuser of this server.
func (p *Postgres) AdminURL() string {
	return p.URL("postgres", superuser, p.password)
}

// Done returns a channel that is closed when the server has ended, whether by
// Stop or by itself.
func (p *Postgres) Done() <-chan struct{} {
	return p.server.done
}

// Err returns why the server ended by itself, with the last lines of its log.
// It returns nil while the server runs and after it ended because of Stop.
func (p *Postgres) Err() error {
	return p.server.exitError()
}

// Stop shuts the server down, waits for it to end and gives up the data folder.
// Connections are closed and their transactions rolled back. When the server
// takes longer than 30 seconds, or ctx ends earlier, it is told to quit at
// once, which loses no committed data but makes the next start replay the
// log. Stop returns an error only when the server could not be ended at all.
// It must be called even after the server ended by itself; further calls wait
// for the first one and return what it returned.
func (p *Postgres) Stop(ctx context.Context) error {
	p.stopOnce.Do(func() {
		if err := p.server.stop(ctx); err != nil {
			p.stopErr = fmt.Errorf("stop postgres: %w", err)
			return
		}
		p.release()
	})
	return p.stopErr
}
