package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/tests/internal/checkout3"
	"github.com/countermand/countermand/tests/internal/meter"
)

// finishedSagas is what the visibility benchmark fills the engine's database with.
const finishedSagas = 1_000_000

// visibility measures what operators' queries cost among a million finished
// sagas, and what an engine that has nothing to do costs beside them.
func visibility(ctx context.Context, options options) (report Report, err error) {
	report = Report{Load: map[string]any{"finished_sagas": finishedSagas, "repetitions": repetitions}, Machine: machine()}
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return report, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	options.say("starting PostgreSQL and JetStream, fsync on")
	// Batched: a participant for single commits runs a worker for each partition, and each
	// looks for redriven dead letters, so what idles would be those and not the engine.
	s, err := checkout3.Start(ctx, checkout3.Config{Dir: dir, Batched: true})
	if err != nil {
		return report, err
	}
	defer s.Stop()
	var version string
	if err := s.Admin.QueryRow(ctx, "show server_version").Scan(&version); err != nil {
		return report, err
	}
	report.Versions = versions(os.Args[0], version)
	pool := s.EnginePool()
	options.say("storing %d finished sagas", finishedSagas)
	if err := fill(ctx, pool); err != nil {
		return report, err
	}
	options.say("querying")
	reader := saga.NewReader(pool)
	hour := time.Now().Add(-time.Hour)
	for _, q := range []struct {
		name  string
		query func() (int, error)
		want  int
	}{
		{"newest", lists(ctx, reader, saga.Filter{}), 50},
		{"stuck", lists(ctx, reader, saga.Filter{Status: saga.Stuck}), 10},
		{"compensated", lists(ctx, reader, saga.Filter{Status: saga.Compensated}), 50},
		{"compensated_with_code", lists(ctx, reader, saga.Filter{Status: saga.Compensated, Code: "card_declined"}), 50},
		{"older_than_an_hour", lists(ctx, reader, saga.Filter{CreatedBefore: hour}), 50},
		{"by_attribute", lists(ctx, reader, saga.Filter{Attributes: map[string]string{"customer": "customer-4711"}}), 10},
		{"rare_code_among_completed", lists(ctx, reader, saga.Filter{Code: "no_such_code"}), 0},
		{"counts", func() (int, error) {
			counts, err := reader.Counts(ctx)
			return len(counts), err
		}, 3},
		{"waiting", func() (int, error) {
			waiting, err := reader.Waiting(ctx)
			return len(waiting), err
		}, 1},
	} {
		took := make([]time.Duration, 0, repetitions)
		for range repetitions {
			began := time.Now()
			n, err := q.query()
			if err != nil {
				return report, fmt.Errorf("%s: %w", q.name, err)
			}
			if n != q.want {
				return report, fmt.Errorf("%s found %d, want %d", q.name, n, q.want)
			}
			took = append(took, time.Since(began))
		}
		p50, p99 := quantile(took, 0.5), quantile(took, 0.99)
		report.add(q.name+"_p50_ms", p50, "ms")
		report.add(q.name+"_p99_ms", p99, "ms")
	}
	options.say("idle for %s", options.duration)
	if err := sleep(ctx, 3*time.Second); err != nil { // what the queries have left behind
		return report, err
	}
	before, err := meter.Read(ctx, s.Admin, os.Getpid(), "bench_.*")
	if err != nil {
		return report, err
	}
	if err := sleep(ctx, options.duration); err != nil {
		return report, err
	}
	after, err := meter.Read(ctx, s.Admin, os.Getpid(), "bench_.*")
	if err != nil {
		return report, err
	}
	used := after.Since(before)
	// Engine, relay, participant and the NATS server are one process here.
	report.add("idle_go_percent_of_core", 100*used.Go.Seconds()/options.duration.Seconds(), "%")
	report.add("idle_postgres_percent_of_core", 100*used.Postgres.Seconds()/options.duration.Seconds(), "%")
	report.add("idle_commits_per_second", float64(used.Commits)/options.duration.Seconds(), "1/s")
	return report, nil
}

const repetitions = 20

func lists(ctx context.Context, reader *saga.Reader, filter saga.Filter) func() (int, error) {
	return func() (int, error) {
		page, err := reader.List(ctx, filter)
		return len(page.Sagas), err
	}
}

// fill stores sagas of the last day, of which one in ten was compensated, for a
// hundred thousand customers; ten are stuck.
func fill(ctx context.Context, pool *pgxpool.Pool) error {
	for _, sql := range []string{
		`
		insert into saga (id, definition, version, created_at, day, revision, snapshot, hash, status, waits, step, code, updated_at)
		select gen_random_uuid(), 'checkout', 1, at, (at at time zone 'UTC')::date, 7, 0, sha256(n::text::bytea),
			case when n <= 10 then 'stuck' when n % 10 = 0 then 'compensated' else 'completed' end,
			case when n <= 10 then 'capture-payment' else '' end,
			case when n <= 10 then 'capture-payment' when n % 10 = 0 then 'authorize-payment' else '' end,
			case when n <= 10 then 'no_answer' when n % 20 = 0 then 'card_declined' when n % 10 = 0 then 'out_of_stock' else '' end, at
		from (select n, clock_timestamp() - n * interval '86 ms' as at from generate_series(1, $1::integer) as n) as s`, `
		insert into saga_log (saga_id, seq, day, entry) select id, 1, day, decode(repeat('ab', 300), 'hex') from saga limit $1`, `
		insert into saga_attribute (saga_id, name, value)
		select id, 'customer', 'customer-' || (row_number() over () % ($1::integer / 10)) from saga`, `
		insert into saga_live (saga_id, due_at) select id, null from saga where status = 'stuck' limit $1`,
	} {
		if _, err := pool.Exec(ctx, sql, finishedSagas); err != nil {
			return fmt.Errorf("store sagas: %w", err)
		}
	}
	if _, err := pool.Exec(ctx, "vacuum analyze"); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
