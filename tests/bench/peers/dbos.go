package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/google/uuid"
)

// dbosPeer is DBOS Transact: a workflow function whose steps are checkpointed in
// the engine's database, and participants with a database of their own. More
// connections or more sagas in flight did not make it faster.
var dbosPeer = peer{name: "dbos", version: moduleVersion("github.com/dbos-inc/dbos-transact-golang"), inFlight: 64, open: openDBOS}

const dbosConns = 20

// dbosInput starts the workflow.
type dbosInput struct {
	Saga     uuid.UUID `json:"saga"`
	Declined bool      `json:"declined"`
}

func openDBOS(ctx context.Context, own, shop string) (work participants, saga func(context.Context, uuid.UUID, bool) error, stop func(), err error) {
	if work, err = newParticipants(ctx, shop); err != nil {
		return work, nil, nil, err
	}
	defer func() {
		if err != nil {
			work.pool.Close()
		}
	}()
	pool, err := openPool(ctx, own, dbosConns)
	if err != nil {
		return work, nil, nil, err
	}
	engine, err := dbos.NewContext(ctx, dbos.Config{
		AppName: "checkout3", SystemDBPool: pool, Logger: slog.New(slog.DiscardHandler), ApplicationVersion: "1",
	})
	if err != nil {
		pool.Close()
		return work, nil, nil, fmt.Errorf("start DBOS: %w", err)
	}
	stop = func() {
		_ = dbos.Shutdown(engine, 10*time.Second) // nothing is in flight any more
		pool.Close()
	}
	step := func(workflow dbos.Context, name, sql string, id uuid.UUID) error {
		_, err := dbos.RunAsStep(workflow, func(ctx context.Context) (string, error) {
			return "done", work.in(ctx, sql, id)
		}, dbos.WithStepName(name))
		return err
	}
	checkout := func(workflow dbos.Context, in dbosInput) (string, error) {
		if err := step(workflow, "reserve", reserveSQL, in.Saga); err != nil {
			return "", err
		}
		reply, err := dbos.RunAsStep(workflow, func(ctx context.Context) (string, error) {
			if in.Declined {
				return "declined", nil
			}
			return "authorized", work.in(ctx, paySQL, in.Saga)
		}, dbos.WithStepName("authorize"))
		if err != nil {
			return "", err
		}
		if reply == "declined" {
			return "compensated", step(workflow, "release", releaseSQL, in.Saga)
		}
		return "completed", step(workflow, "confirm", confirmSQL, in.Saga)
	}
	dbos.RegisterWorkflow(engine, checkout, dbos.WithWorkflowName("checkout3"))
	if err := dbos.Launch(engine); err != nil {
		stop()
		return work, nil, nil, fmt.Errorf("launch DBOS: %w", err)
	}
	saga = func(_ context.Context, id uuid.UUID, declined bool) error {
		handle, err := dbos.RunWorkflow(engine, checkout, dbosInput{id, declined}, dbos.WithWorkflowID(id.String()))
		if err != nil {
			return err
		}
		ended, err := handle.GetResult()
		if err == nil && (ended == "compensated") != declined {
			err = errors.New("it ended " + ended)
		}
		return err
	}
	return work, saga, stop, nil
}
