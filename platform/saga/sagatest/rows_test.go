package sagatest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/saga/sagatest"
)

// seats returns a database with a seat that somebody else has.
func seats(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := postgrestest.Open(t, postgres.Config{})
	for _, sql := range []string{
		"create table seat (number integer, visit text not null, constraint once unique (number) deferrable initially deferred)",
		"insert into seat values (1, 'somebody else')",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return pool
}

func count(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "select count(*) from seat").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// take takes a seat unless somebody has it.
func take(ctx context.Context, tx pgx.Tx, v *Visit) error {
	var taken bool
	err := tx.QueryRow(ctx, "select exists (select from seat where number = $1)", v.Seat).Scan(&taken)
	if err == nil && taken {
		return events.Reject("taken", "seat %d is taken", v.Seat)
	} else if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "insert into seat (number, visit) values ($1, $2)", v.Seat, v.ID)
	return err
}

func TestExploreRunsLocalSteps(t *testing.T) {
	pool, ran := seats(t), 0
	sagatest.Explore(t, cinema(func(ctx context.Context, tx pgx.Tx, v *Visit) error {
		ran++
		return take(ctx, tx, v)
	}, leaveSeat), 300, visits, sagatest.Database(pool), sagatest.CheckRows(soldSeats), sagatest.Sagas(4))
	if n := count(t, pool); n != 1 || ran < 300 {
		t.Errorf("%d seats are taken after the test, want 1 as before; the step was run %d times", n, ran)
	}
}

// Each of these cinemas is built wrong.
func TestExploreFindsWhatIsWrongWithRows(t *testing.T) {
	for name, test := range map[string]struct {
		cinema func(pool *pgxpool.Pool) saga.Definition[Visit]
		want   string
	}{
		"a seat is not given back": {func(*pgxpool.Pool) saga.Definition[Visit] {
			return cinema(take, func(context.Context, pgx.Tx, *Visit) error { return nil })
		}, "is compensated and has 1 seats"},
		"a seat is taken outside of the transaction, and so twice": {func(pool *pgxpool.Pool) saga.Definition[Visit] {
			return cinema(func(ctx context.Context, _ pgx.Tx, v *Visit) error {
				_, err := pool.Exec(ctx, "insert into seat (number, visit) select 10 + count(*), $1 from seat", v.ID)
				return err
			}, leaveSeat)
		}, "is completed and has "},
		"a statement is wrong": {func(*pgxpool.Pool) saga.Definition[Visit] {
			return cinema(func(ctx context.Context, tx pgx.Tx, _ *Visit) error {
				_, err := tx.Exec(ctx, "insert into chair values (1)")
				return err
			}, leaveSeat)
		}, `local step take-seat fails: ERROR: relation "chair" does not exist`},
		"a no is told as a failure": {func(*pgxpool.Pool) saga.Definition[Visit] {
			return cinema(func(ctx context.Context, tx pgx.Tx, v *Visit) error {
				if err := take(ctx, tx, v); err != nil {
					return errors.New("it is taken")
				}
				return nil
			}, leaveSeat)
		}, "let it say no by events.Reject"},
		"what is written breaks a constraint at the commit": {func(*pgxpool.Pool) saga.Definition[Visit] {
			return cinema(func(ctx context.Context, tx pgx.Tx, v *Visit) error {
				_, err := tx.Exec(ctx, "insert into seat (number, visit) values (1, $1)", v.ID)
				return err
			}, leaveSeat)
		}, `cannot be committed: ERROR: duplicate key value violates unique constraint "once"`},
	} {
		t.Run(name, func(t *testing.T) {
			pool := seats(t)
			finding, err := sagatest.Find(test.cinema(pool), 300, visits, sagatest.Database(pool), sagatest.CheckRows(soldSeats))
			if err != nil || finding == nil {
				t.Fatalf("finding %v, %v", finding, err)
			}
			if !strings.Contains(finding.Err.Error(), test.want) {
				t.Errorf("found: %v\nwant: %s", finding.Err, test.want)
			}
			t.Logf("found by seed %d: %v", finding.Seed, finding.Err)
		})
	}
}

// What an undo reads in the state is what the local step has left there.
func TestUnwindRunsLocalSteps(t *testing.T) {
	pool := seats(t)
	sagatest.Unwind(t, cinema(func(ctx context.Context, tx pgx.Tx, v *Visit) error {
		v.Seat += 100
		return take(ctx, tx, v)
	}, func(ctx context.Context, tx pgx.Tx, v *Visit) error {
		tag, err := tx.Exec(ctx, "delete from seat where number = $1", v.Seat)
		if err == nil && tag.RowsAffected() != 1 {
			return errors.New("there is no such seat")
		}
		return err
	}), visits, sagatest.Database(pool), sagatest.CheckRows(soldSeats))
}

func TestCheckRowsNeedsADatabase(t *testing.T) {
	finding, err := sagatest.Find(cinema(take, leaveSeat), 1, visits, sagatest.CheckRows(soldSeats))
	if err == nil || !strings.Contains(err.Error(), "give Database as well") {
		t.Errorf("finding %v, %v", finding, err)
	}
}

// told keeps what a test is told.
type told struct {
	testing.TB
	text strings.Builder
}

func (r *told) Helper() {}
func (r *told) Logf(format string, args ...any) {
	r.text.WriteString(format)
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			r.text.WriteString(text)
		}
	}
}

func TestWithoutADatabaseItIsSaidThatLocalStepsAreNotRun(t *testing.T) {
	never := func(context.Context, pgx.Tx, *Visit) error { panic("it is run") }
	for name, explore := range map[string]func(r *told){
		"Explore": func(r *told) { sagatest.Explore(r, cinema(never, never), 3, visits) },
		"Unwind":  func(r *told) { sagatest.Unwind(r, cinema(never, never), visits) },
	} {
		r := &told{TB: t}
		if explore(r); !strings.Contains(r.text.String(), "not run") || !strings.Contains(r.text.String(), "take-seat") {
			t.Errorf("%s says %q", name, r.text.String())
		}
	}
}
