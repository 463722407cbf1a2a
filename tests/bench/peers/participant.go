package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// participantTables are those of the participants of our own benchmark.
const participantTables = `
	create table reservation (order_id uuid primary key, status text not null) with (fillfactor = 70);
	create table payment (order_id uuid primary key, amount bigint not null);
	create table confirmation (order_id uuid primary key)`

// participants do the work of the steps. Done twice, a step changes nothing
// more: every engine here asks at least once.
type participants struct{ pool *pgxpool.Pool }

// participantConns is the size of the participants' pool, the same for all.
const participantConns = 16

func newParticipants(ctx context.Context, databaseURL string) (participants, error) {
	pool, err := openPool(ctx, databaseURL, participantConns)
	if err != nil {
		return participants{}, err
	}
	if _, err := pool.Exec(ctx, participantTables); err != nil {
		pool.Close()
		return participants{}, fmt.Errorf("create the participants' tables: %w", err)
	}
	return participants{pool}, nil
}

func openPool(ctx context.Context, databaseURL string, conns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

// The statements of the steps.
const (
	reserveSQL = "insert into reservation values ($1, 'held') on conflict do nothing"
	paySQL     = "insert into payment values ($1, 450) on conflict do nothing"
	confirmSQL = "insert into confirmation values ($1) on conflict do nothing"
	releaseSQL = "update reservation set status = 'released' where order_id = $1"
)

// in runs one statement in a transaction of its own, and then whatever else is
// to commit with it.
func (p participants) in(ctx context.Context, sql string, saga uuid.UUID, also ...func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql, saga); err != nil {
			return err
		}
		for _, do := range also {
			if err := do(tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// declined says whether the authorization of the n-th saga is declined.
func declined(n int64, percent int) bool { return int(n%100) < percent }

// check counts the rows of ended sagas: an engine that skips a step is no engine.
func (p participants) check(ctx context.Context, sagas, declined int64) error {
	var reserved, paid, confirmed, released int64
	err := p.pool.QueryRow(ctx, `
		select (select count(*) from reservation), (select count(*) from payment), (select count(*) from confirmation),
			(select count(*) from reservation where status = 'released')`).Scan(&reserved, &paid, &confirmed, &released)
	if err != nil {
		return fmt.Errorf("count the rows: %w", err)
	}
	if reserved != sagas || paid != sagas-declined || confirmed != sagas-declined || released != declined {
		return fmt.Errorf("after %d sagas, %d of them declined, there are %d reservations (%d released), %d payments and %d confirmations",
			sagas, declined, reserved, released, paid, confirmed)
	}
	return nil
}
