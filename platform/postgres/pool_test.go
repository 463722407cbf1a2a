package postgres_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

func TestOpenSetsLimits(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{ApplicationName: "limits", MaxConns: 3, LockTimeout: 1500 * time.Millisecond})
	for setting, want := range map[string]string{
		"application_name": "limits", "statement_timeout": "30s", "lock_timeout": "1500ms",
		"idle_in_transaction_session_timeout": "1min",
	} {
		var got string
		if err := pool.QueryRow(t.Context(), `select current_setting($1)`, setting).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	if got := pool.Config().MaxConns; got != 3 {
		t.Errorf("MaxConns = %d, want 3", got)
	}
}

func TestOpenLeavesWhatTheURLStates(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(embeddedtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	query := target.Query()
	query.Set("statement_timeout", "7000")
	query.Set("pool_max_conns", "2")
	query.Set("pool_max_conn_lifetime", "1h")
	query.Set("options", "-c lock_timeout=250")
	target.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // libpq knows no other space

	pool := open(t, postgres.Config{URL: target.String(), MaxConns: 9, IdleInTransactionTimeout: -1})
	for setting, want := range map[string]string{
		"statement_timeout": "7s", "lock_timeout": "250ms", "idle_in_transaction_session_timeout": "0",
	} {
		var got string
		if err := pool.QueryRow(t.Context(), `select current_setting($1)`, setting).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	if got := pool.Config(); got.MaxConns != 2 || got.MaxConnLifetime != time.Hour {
		t.Errorf("MaxConns = %d, MaxConnLifetime = %s, want 2 and 1h", got.MaxConns, got.MaxConnLifetime)
	}
}

func TestOpenErrorsHoldNoPassword(t *testing.T) {
	t.Parallel()
	const password = "s3cr3t-w0rd"
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	real, err := url.Parse(embeddedtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	noDatabase, noUser := *real, *real
	noDatabase.Path = "/no_such_database"
	noUser.User = url.UserPassword("no_such_user", password)

	for name, test := range map[string]struct {
		url   string
		final bool
	}{
		"unparsable URL":       {"postgres://u:" + password + "@host:port/db", true},
		"password with @":      {"postgres://u:" + password + "@" + password + "%zz@host/db", true},
		"keyword value":        {"host=x port=nope password='" + password + "'", true},
		"nobody listens":       {"postgres://u:" + password + "@" + address + "/db", false},
		"database not there":   {noDatabase.String(), true},
		"user not there":       {noUser.String(), true},
		"pool setting refused": {"postgres://u:" + password + "@" + address + "/db?pool_max_conns=many", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, err := postgres.Open(t.Context(), postgres.Config{URL: test.url, Wait: 300 * time.Millisecond})
			if err == nil {
				pool.Close()
				t.Fatal("opened")
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("error holds the password: %v", err)
			}
			if got := errors.Is(err, postgres.ErrConfig); got != test.final {
				t.Errorf("is ErrConfig: %t, want %t: %v", got, test.final, err)
			}
			if test.final == postgres.IsRetryable(err) {
				t.Errorf("IsRetryable = %t: %v", !test.final, err)
			}
		})
	}
}

func TestOpenWaitsForTheServer(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(embeddedtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	server := relay(t, target)

	time.AfterFunc(400*time.Millisecond, server.open)
	start := time.Now()
	open(t, postgres.Config{URL: server.url, Wait: 20 * time.Second})
	if waited := time.Since(start); waited < 400*time.Millisecond {
		t.Errorf("opened after %s, before the server was there", waited)
	}
}

func TestOpenStopsWithItsContext(t *testing.T) {
	t.Parallel()
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := postgres.Open(ctx, postgres.Config{URL: "postgres://u@" + address + "/db"}); err == nil {
		t.Fatal("opened")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("gave up after %s", took)
	}
}
