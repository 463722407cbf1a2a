package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/tests/internal/meter"
	"github.com/countermand/countermand/tests/internal/product"
)

// system is the product under test: a dev process on a Postgres that the
// benchmark starts itself, so that it can count commits and WAL.
type system struct {
	dir      string
	binary   string
	postgres *embedded.Postgres
	admin    *pgx.Conn
	dev      *product.Dev
	log      *os.File
}

func startSystem(ctx context.Context, say func(string, ...any)) (_ *system, err error) {
	s := &system{}
	defer func() {
		if err != nil {
			s.stop(ctx)
		}
	}()
	if s.dir, err = os.MkdirTemp("", "countermand-bench-"); err != nil {
		return nil, err
	}
	say("building")
	if s.binary, err = product.Build(ctx, s.dir, false); err != nil {
		return nil, err
	}
	say("starting PostgreSQL, JetStream and every role, fsync on")
	if s.postgres, err = embedded.StartPostgres(ctx, embedded.PostgresConfig{DataDir: filepath.Join(s.dir, "postgres")}); err != nil {
		return nil, err
	}
	if s.admin, err = pgx.Connect(ctx, s.postgres.AdminURL()); err != nil {
		return nil, err
	}
	if s.log, err = os.Create(filepath.Join(s.dir, "dev.log")); err != nil {
		return nil, err
	}
	s.dev, err = product.StartDev(ctx, s.binary, filepath.Join(s.dir, "data"), s.log, "DATABASE_URL="+s.postgres.AdminURL())
	if err != nil {
		content, _ := os.ReadFile(s.log.Name())
		return nil, fmt.Errorf("%w\n%s", err, content)
	}
	return s, nil
}

// stop ends the product first and then its database, also when ctx has ended.
func (s *system) stop(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if s.dev != nil {
		if err := s.dev.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if s.admin != nil {
		_ = s.admin.Close(ctx)
	}
	if s.postgres != nil {
		if err := s.postgres.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	if s.log != nil {
		_ = s.log.Close()
	}
	_ = os.RemoveAll(s.dir)
}

// profile records a CPU profile of the process with that admin listener for that long.
func profile(ctx context.Context, admin string, duration time.Duration, file string) error {
	url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", admin, max(int(duration.Seconds()), 1))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return out.Close()
}

// databases matches the names of the product's databases.
const databases = "^(countermand|shop)_"

// measure reads the counters. The load generator's own CPU is in none of them.
func (s *system) measure(ctx context.Context) (meter.Usage, error) {
	return meter.Read(ctx, s.admin, s.dev.PID, databases)
}
