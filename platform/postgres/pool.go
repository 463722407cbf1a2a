package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"
)

// Config says which database to open and how. Only URL is required.
//
// What the URL itself states wins over every default below: pool_max_conns,
// application_name, statement_timeout and so on. For the three timeouts, zero
// means the default and a negative value sends nothing, so that the server's
// own setting holds; a PgBouncer that refuses them needs that.
type Config struct {
	// URL is a postgres:// URL or a keyword/value string. It may hold a password,
	// so it must not be logged.
	URL string
	// ApplicationName is how pg_stat_activity shows the connections.
	ApplicationName string
	// MaxConns bounds the pool. Zero means pool_max_conns of the URL, else the
	// greater of 4 and the number of CPUs.
	MaxConns int32
	// MinIdleConns is how many connections are kept ready. Zero means none.
	MinIdleConns int32
	// StatementTimeout bounds one statement. The default is 30 s.
	StatementTimeout time.Duration
	// LockTimeout bounds the wait for one lock. The default is 5 s.
	LockTimeout time.Duration
	// IdleInTransactionTimeout ends sessions that sit in an open transaction, whose
	// locks and snapshot would otherwise stay for good. The default is 60 s.
	IdleInTransactionTimeout time.Duration
	// Params are further settings of every session by name, such as
	// plan_cache_mode.
	Params map[string]string
	// Wait is how long Open tries to reach the server. The default is 30 s; a
	// negative value tries once.
	Wait time.Duration
}

// Defaults of [Config] and of the pools that Open makes.
const (
	statementTimeoutDefault         = 30 * time.Second
	lockTimeoutDefault              = 5 * time.Second
	idleInTransactionTimeoutDefault = 60 * time.Second
	waitDefault                     = 30 * time.Second

	connLifetime      = 30 * time.Minute
	healthCheckPeriod = 30 * time.Second
	pingTimeout       = 5 * time.Second
	connectTimeout    = 5 * time.Second
	retryDelay        = 100 * time.Millisecond
	retryDelayMax     = 2 * time.Second
)

// ErrConfig is wrapped by errors of Open that trying again cannot cure: the URL
// cannot be parsed, the server refuses the user or has no such database.
var ErrConfig = errors.New("database configuration")

// Open returns a pool that has reached the server at least once. It tries again
// while the server is not there, until ctx ends or Config.Wait is over, and then
// returns the last error. Neither that error nor any other holds the password.
// The caller closes the pool.
func Open(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	poolConfig, err := cfg.pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := waitFor(ctx, pool, cmp.Or(cfg.Wait, waitDefault)); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

func (cfg Config) pool() (*pgxpool.Config, error) {
	// Parsed a second time by pgx alone, because pgxpool takes its own pool_*
	// settings out, and with them the knowledge of which ones were stated.
	stated, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errURL
	}
	pool, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errURL
	}
	params := pool.ConnConfig.RuntimeParams
	has := func(name string) bool {
		_, ok := stated.RuntimeParams[name]
		return ok || strings.Contains(params["options"], name)
	}
	timeout := func(name string, value, otherwise time.Duration) {
		if value = cmp.Or(value, otherwise); value > 0 && !has(name) {
			params[name] = strconv.FormatInt(max(value.Milliseconds(), 1), 10)
		}
	}
	timeout("statement_timeout", cfg.StatementTimeout, statementTimeoutDefault)
	timeout("lock_timeout", cfg.LockTimeout, lockTimeoutDefault)
	timeout("idle_in_transaction_session_timeout", cfg.IdleInTransactionTimeout, idleInTransactionTimeoutDefault)
	for name, value := range cfg.Params {
		if !has(name) {
			params[name] = value
		}
	}
	if !has("application_name") {
		params["application_name"] = cmp.Or(cfg.ApplicationName, "countermand")
	}
	if pool.ConnConfig.ConnectTimeout == 0 {
		pool.ConnConfig.ConnectTimeout = connectTimeout
	}
	if cfg.MaxConns > 0 && !has("pool_max_conns") {
		pool.MaxConns = cfg.MaxConns
	}
	if cfg.MinIdleConns > 0 && !has("pool_min_idle_conns") {
		pool.MinIdleConns = min(cfg.MinIdleConns, pool.MaxConns)
	}
	if !has("pool_max_conn_lifetime") {
		pool.MaxConnLifetime = connLifetime
	}
	if !has("pool_max_conn_lifetime_jitter") {
		pool.MaxConnLifetimeJitter = pool.MaxConnLifetime / 10
	}
	if !has("pool_health_check_period") {
		pool.HealthCheckPeriod = healthCheckPeriod
	}
	pool.PingTimeout = pingTimeout
	// pgx would send a uuid.UUID by way of its text, through an error and a parser.
	pool.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		pgxuuid.Register(conn.TypeMap())
		return nil
	}
	return pool, nil
}

// errURL says nothing of the text it is about: what cannot be parsed cannot be
// masked reliably either.
var errURL = fmt.Errorf(
	"%w: the URL cannot be parsed; want postgres://user:password@host:port/database with special characters of the password percent-encoded",
	ErrConfig)

// waitFor pings until the server answers, ctx ends, limit is over or the answer
// is one that waiting does not change.
func waitFor(ctx context.Context, pool *pgxpool.Pool, limit time.Duration) error {
	giveUp := time.Now().Add(limit)
	for delay := retryDelay; ; delay = min(2*delay, retryDelayMax) {
		err := pool.Ping(ctx)
		switch {
		case err == nil:
			return nil
		case refused(err):
			return fmt.Errorf("%w: %w", ErrConfig, err)
		case ctx.Err() != nil || !time.Now().Add(delay).Before(giveUp):
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(delay):
		}
	}
}

// refused reports an answer of the server that will be the same next time.
func refused(err error) bool {
	var serverErr *pgconn.PgError
	if !errors.As(err, &serverErr) {
		return false
	}
	switch serverErr.Code {
	case "28000", "28P01", // invalid authorization, invalid password
		"3D000",          // no such database
		"42501",          // no privilege to connect
		"42704", "22023": // no such setting, or not that value
		return true
	}
	return false
}
