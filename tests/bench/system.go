package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/embedded"
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

// profile records a CPU profile of the dev process for that long.
func (s *system) profile(ctx context.Context, duration time.Duration, file string) error {
	url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", s.dev.Admin, max(int(duration.Seconds()), 1))
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

// usage is what the system has used since it started.
type usage struct {
	cpu      time.Duration // of the dev process
	postgres time.Duration // of the server and its backends
	commits  int64
	wal      int64 // bytes
}

func (u usage) since(before usage) usage {
	return usage{u.cpu - before.cpu, u.postgres - before.postgres, u.commits - before.commits, u.wal - before.wal}
}

// measure reads the counters. The load generator's own CPU is in none of them.
func (s *system) measure(ctx context.Context) (usage, error) {
	var u usage
	var err error
	if u.cpu, err = cpuOf(s.dev.PID, false); err != nil {
		return u, err
	}
	var postmaster int
	err = s.admin.QueryRow(ctx, `
		select (select pid from pg_stat_activity where backend_type = 'checkpointer'),
			(select sum(xact_commit) from pg_stat_database where datname ~ '^(countermand|shop)_'),
			pg_current_wal_insert_lsn() - '0/0'::pg_lsn`).Scan(&postmaster, &u.commits, &u.wal)
	if err != nil {
		return u, fmt.Errorf("read counters: %w", err)
	}
	parent, err := parentOf(postmaster)
	if err != nil {
		return u, err
	}
	u.postgres, err = cpuOf(parent, true)
	return u, err
}

const ticksPerSecond = 100 // USER_HZ of Linux on every architecture Go supports

// cpuOf returns the CPU time of a process, and of all below it if tree.
func cpuOf(pid int, tree bool) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	total := 0
	last := 13
	if tree {
		last = 15 // children that have ended and were waited for
	}
	for _, field := range fields[11:last] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("cpu of process %d: %w", pid, err)
		}
		total += ticks
	}
	sum := time.Duration(total) * time.Second / ticksPerSecond
	if !tree {
		return sum, nil
	}
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(entry)))
		if err != nil {
			continue
		}
		if parent, err := parentOf(child); err == nil && parent == pid {
			if below, err := cpuOf(child, true); err == nil { // it may have ended meanwhile
				sum += below
			}
		}
	}
	return sum, nil
}

func parentOf(pid int) (int, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// stat returns the fields of /proc/PID/stat after the command name, which may
// hold spaces: [0] is the state, [1] the parent, [11] to [14] the CPU ticks.
func stat(pid int) ([]string, error) {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, fmt.Errorf("CPU accounting needs /proc: %w", err)
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("stat of process %d is cut short", pid)
	}
	return fields, nil
}
