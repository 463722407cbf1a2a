package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// seating takes a seat for each day in the engine's own database, and then calls a
// participant.
func seating(take func(ctx context.Context, tx pgx.Tx, s *saga.Each[journey, string]) error) saga.Definition[journey] {
	d := through(
		saga.ForEach[journey, string]{Name: "days", Limit: 2, Items: func(s journey) []string { return s.Days }, Body: saga.Local[saga.Each[journey, string]]{
			Name: "take-seat", Retry: saga.Retry{Min: 5 * time.Millisecond, Max: 20 * time.Millisecond}, Timeout: 20 * time.Second, Do: take,
			Undo: func(ctx context.Context, tx pgx.Tx, s *saga.Each[journey, string]) error {
				_, err := tx.Exec(ctx, "delete from seat where day = $1", s.Item)
				return err
			},
		}},
		hop("ride"),
	)
	return d
}

// takeSeat fails when the day has been taken, so it cannot run twice unseen.
func takeSeat(ctx context.Context, tx pgx.Tx, s *saga.Each[journey, string]) error {
	if _, err := tx.Exec(ctx, "insert into seat (day, place) values ($1, $2)", s.Item, s.Index); err != nil {
		return err
	}
	s.State.Notes = append(s.State.Notes, "seat for "+s.Item)
	s.Item += "!" // the undo sees it
	return nil
}

// newCinema returns a bench with seats, on which two engines run their timers.
func newCinema(t *testing.T, d saga.Definition[journey]) *bench {
	t.Helper()
	b := newBench(t, d)
	b.exec("create table seat (day text primary key, place integer not null)")
	for range 2 {
		b.runTimers(b.another(d))
	}
	return b
}

// journeyOf starts a journey of those days.
func (b *bench) journeyOf(days ...string) (id string) {
	b.t.Helper()
	id = ids(1)[0]
	start := startOf(b.t, id)
	start.Event.Type, start.Event.Data = travel.Type(), encode(b.t, journey{Days: days})
	b.process(start)
	return id
}

// soon waits until a saga waits for that step.
func (b *bench) soon(id, step string) saga.Instance {
	b.t.Helper()
	var in saga.Instance
	eventually(b.t, "waits for "+step, func() bool {
		in, _ = b.stored(id)
		for _, r := range in.Steps {
			if r.Name == step && (r.Status == saga.StepRunning || r.Status == saga.StepCompensating) {
				return true
			}
		}
		return false
	})
	return in
}

func (b *bench) seats() int { b.t.Helper(); return one[int](b, "select count(*) from seat") }

func (b *bench) endsSoon(id string, status saga.Status, code events.Code) saga.Instance {
	b.t.Helper()
	var in saga.Instance
	eventually(b.t, "ends", func() bool { in, _ = b.stored(id); return in.Status.Final() })
	got := events.Code("")
	if in.Failure != nil {
		got = in.Failure.Code
	}
	if in.Status != status || got != code {
		b.t.Errorf("saga is %s with %q, want %s with %q", in.Status, got, status, code)
	}
	return in
}

func TestLocalStepsCommitWithTheirSaga(t *testing.T) {
	t.Parallel()
	b := newCinema(t, seating(takeSeat))
	id := b.journeyOf("mon", "tue", "wed")
	in := b.soon(id, "ride")
	if n := b.seats(); n != 3 {
		t.Errorf("%d seats are taken", n)
	}
	var state journey
	if err := json.Unmarshal(in.State, &state); err != nil || len(state.Notes) != 3 {
		t.Errorf("state %s, %v", in.State, err)
	}
	if items := in.Steps[0].Items; len(items) != 3 || string(items[2]) != `"wed!"` {
		t.Errorf("items %q", items)
	}
	b.process(replyTo(t, id, "ride", []byte(`{}`), nil))
	b.endsSoon(id, saga.Completed, "")
	if history, err := saga.NewReader(b.pool).History(t.Context(), id); err != nil || len(history) != 5 {
		t.Errorf("%d entries, %v", len(history), err)
	}
}

func TestLocalStepsAreUndone(t *testing.T) {
	b := newCinema(t, seating(func(ctx context.Context, tx pgx.Tx, s *saga.Each[journey, string]) error {
		if _, err := tx.Exec(ctx, "insert into seat (day, place) values ($1, $2)", s.Item, s.Index); err != nil {
			return err
		}
		if s.Item == "fri" {
			return events.Reject("full", "no seat is left")
		}
		return nil
	}))
	t.Run("when a later step is rejected", func(t *testing.T) {
		id := b.journeyOf("mon", "tue")
		b.soon(id, "ride")
		b.process(no(t, id, "ride"))
		b.endsSoon(id, saga.Compensated, "full")
		if n := b.seats(); n != 0 {
			t.Errorf("%d seats are taken", n)
		}
	})
	t.Run("and what one has done that says no goes with it", func(t *testing.T) {
		id := b.journeyOf("wed", "thu", "fri")
		in := b.endsSoon(id, saga.Compensated, "full")
		if n := b.seats(); n != 0 {
			t.Errorf("%d seats are taken: %+v", n, in.Steps)
		}
	})
}

func TestLocalStepThatFailsIsTriedAgain(t *testing.T) {
	var tries atomic.Int32
	for name, fail := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"its statement": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select 1/0")
			return err
		},
		"its statement, and it does not say so": func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, "select 1/0")
			return nil
		},
		"its code":       func(context.Context, pgx.Tx) error { panic("oops") },
		"something else": func(context.Context, pgx.Tx) error { return errors.New("the printer is on fire") },
		"its connection": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			tries.Store(0)
			b := newCinema(t, seating(func(ctx context.Context, tx pgx.Tx, s *saga.Each[journey, string]) error {
				if err := takeSeat(ctx, tx, s); err != nil {
					return err
				}
				if s.Index == 0 && tries.Add(1) <= 2 {
					return fail(ctx, tx)
				}
				return nil
			}))
			id := b.journeyOf("mon", "tue")
			in := b.soon(id, "ride")
			if n := b.seats(); n != 2 || tries.Load() != 3 {
				t.Errorf("%d seats are taken after %d tries", n, tries.Load())
			}
			var state journey
			if err := json.Unmarshal(in.State, &state); err != nil || len(state.Notes) != 2 {
				t.Errorf("state %s, %v", in.State, err)
			}
		})
	}
}

func TestLocalStepIsNotRunWhileItsSagaIsPaused(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	d := seating(func(context.Context, pgx.Tx, *saga.Each[journey, string]) error {
		tries.Add(1)
		return nil
	})
	b := newBench(t, d)
	id := b.journeyOf("mon")
	in, _ := b.stored(id)
	program, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	paused, _, err := program.Obey(in, saga.Order{Verb: saga.Pause, By: "eve", Reason: "lunch"}, in.UpdatedAt)
	if err != nil {
		t.Fatal(err)
	}
	b.rewrite(id, paused)
	fresh := b.another(d)
	for range 3 {
		if _, err := fresh.Fire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.runTimers(fresh)() // waits for local steps
	if n := tries.Load(); n != 0 {
		t.Errorf("it was run %d times", n)
	}
}
