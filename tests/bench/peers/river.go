package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// River has no sagas: a step is a job that inserts the job of the next step. In
// riverPeer the participants have a database of their own, as with every other
// engine here. In riverOneTxPeer they write to River's database, and a step's row
// and the next job commit together: that is fewer commits, and participants that
// can be no services.
var (
	riverPeer      = peer{name: "river", version: riverVersion, inFlight: 512, open: openRiver(false)}
	riverOneTxPeer = peer{name: "river-one-tx", version: riverVersion, inFlight: 512, open: openRiver(true)}
	riverVersion   = moduleVersion("github.com/riverqueue/river")
)

const (
	riverConns   = 30
	riverWorkers = 200
)

// stepArgs is a job: one step of one saga.
type stepArgs struct {
	Step     string    `json:"step"`
	Saga     uuid.UUID `json:"saga"`
	Declined bool      `json:"declined"`
}

func (stepArgs) Kind() string { return "step" }

// stepWorker does a step and inserts the next.
type stepWorker struct {
	river.WorkerDefaults[stepArgs]
	work    participants
	oneTx   bool
	client  *river.Client[pgx.Tx]
	waiting sync.Map // chan struct{} by saga, closed when the last step has committed
}

func (w *stepWorker) Work(ctx context.Context, job *river.Job[stepArgs]) error {
	args := job.Args
	sql, next := "", ""
	switch {
	case args.Step == "reserve":
		sql, next = reserveSQL, "authorize"
	case args.Step == "authorize" && args.Declined:
		next = "release"
	case args.Step == "authorize":
		sql, next = paySQL, "confirm"
	case args.Step == "confirm":
		sql = confirmSQL
	case args.Step == "release":
		sql = releaseSQL
	}
	following := stepArgs{Step: next, Saga: args.Saga, Declined: args.Declined}
	switch {
	case w.oneTx && sql != "" && next != "":
		return w.work.in(ctx, sql, args.Saga, func(tx pgx.Tx) error {
			_, err := w.client.InsertTx(ctx, tx, following, nil)
			return err
		})
	case sql != "":
		if err := w.work.in(ctx, sql, args.Saga); err != nil {
			return err
		}
	}
	if next != "" {
		_, err := w.client.Insert(ctx, following, nil)
		return err
	}
	// River marks the job as done a moment later, with others; that is not waited for.
	if done, ok := w.waiting.LoadAndDelete(args.Saga); ok {
		close(done.(chan struct{}))
	}
	return nil
}

func openRiver(oneTx bool) func(context.Context, string, string) (participants, func(context.Context, uuid.UUID, bool) error, func(), error) {
	return func(ctx context.Context, own, shop string) (work participants, saga func(context.Context, uuid.UUID, bool) error, stop func(), err error) {
		if oneTx {
			shop = own
		}
		if work, err = newParticipants(ctx, shop); err != nil {
			return work, nil, nil, err
		}
		pool, err := openPool(ctx, own, riverConns)
		if err != nil {
			work.pool.Close()
			return work, nil, nil, err
		}
		client, worker, err := startRiver(ctx, pool, work, oneTx)
		if err != nil {
			pool.Close()
			work.pool.Close()
			return work, nil, nil, fmt.Errorf("start River: %w", err)
		}
		stop = func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_ = client.Stop(end)
			pool.Close()
		}
		saga = func(ctx context.Context, id uuid.UUID, declined bool) error {
			done := make(chan struct{})
			worker.waiting.Store(id, done)
			if _, err := client.Insert(ctx, stepArgs{Step: "reserve", Saga: id, Declined: declined}, nil); err != nil {
				return err
			}
			select {
			case <-done:
				return nil
			case <-time.After(time.Minute):
				return errors.New("it has not ended after a minute")
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return work, saga, stop, nil
	}
}

func startRiver(ctx context.Context, pool *pgxpool.Pool, work participants, oneTx bool) (*river.Client[pgx.Tx], *stepWorker, error) {
	driver := riverpgxv5.New(pool)
	quiet := slog.New(slog.DiscardHandler)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return nil, nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, nil, err
	}
	worker := &stepWorker{work: work, oneTx: oneTx}
	workers := river.NewWorkers()
	river.AddWorker(workers, worker)
	client, err := river.NewClient(driver, &river.Config{
		// At 5 ms the rate is the same within noise, and the latency twice as long.
		FetchCooldown: river.FetchCooldownMin, Logger: quiet, Workers: workers,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
	})
	if err != nil {
		return nil, nil, err
	}
	worker.client = client
	return client, worker, client.Start(context.WithoutCancel(ctx))
}
