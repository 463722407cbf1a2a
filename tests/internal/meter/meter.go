// Package meter counts what a system under measurement uses: CPU by the
// operating system, commits and write-ahead log by Postgres. On a machine that
// does other things as well these say more than throughput.
package meter

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Usage is what a system has used since it started.
type Usage struct {
	Go       time.Duration // CPU of the process under measurement
	Postgres time.Duration // CPU of the server and its backends
	Commits  int64
	WAL      int64 // bytes
}

// Since returns what was used after before.
func (u Usage) Since(before Usage) Usage {
	return Usage{u.Go - before.Go, u.Postgres - before.Postgres, u.Commits - before.Commits, u.WAL - before.WAL}
}

// Read reads the counters: the CPU of the process pid, that of the server behind
// admin, and the commits of the databases whose names match the regular
// expression. Postgres reports commits with a delay of up to a second.
func Read(ctx context.Context, admin *pgx.Conn, pid int, databases string) (Usage, error) {
	var u Usage
	var err error
	if u.Go, err = cpuOf(pid, false); err != nil {
		return u, err
	}
	var checkpointer int
	err = admin.QueryRow(ctx, `
		select (select pid from pg_stat_activity where backend_type = 'checkpointer'),
			coalesce((select sum(xact_commit) from pg_stat_database where datname ~ $1), 0)::bigint,
			(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint`, databases).Scan(&checkpointer, &u.Commits, &u.WAL)
	if err != nil {
		return u, fmt.Errorf("read counters: %w", err)
	}
	postmaster, err := parentOf(checkpointer)
	if err != nil {
		return u, err
	}
	u.Postgres, err = cpuOfServer(postmaster)
	return u, err
}
