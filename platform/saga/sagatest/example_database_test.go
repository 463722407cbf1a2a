package sagatest_test

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/saga/sagatest"
)

// A cinema keeps its seats in the engine's own database, and asks a bank for the
// money.

type (
	Visit struct {
		ID   string
		Seat int
	}
	Place struct{ Seat int }
)

var (
	VisitCinema = events.NewCommand[Place, Place]("example.cinema.visit.v1")
	Charge      = events.NewCommand[Place, events.None]("example.bank.charge.v1", "no_money")
)

// cinema is the saga with that way to take a seat, and to leave it again.
func cinema(take, leave func(ctx context.Context, tx pgx.Tx, v *Visit) error) saga.Definition[Visit] {
	return saga.Definition[Visit]{
		Name: "visit", Version: 1,
		Start: saga.On(VisitCinema,
			func(id string, p Place) Visit { return Visit{ID: id, Seat: p.Seat} },
			func(v Visit) Place { return Place{v.Seat} }),
		Flow: saga.Sequence[Visit]{
			saga.Local[Visit]{Name: "take-seat", Do: take, Undo: leave},
			saga.Step[Visit]{Name: "charge", Pivot: true, Do: saga.Call(Charge, func(v Visit) Place { return Place{v.Seat} }, nil)},
		},
	}
}

func takeSeat(ctx context.Context, tx pgx.Tx, v *Visit) error {
	tag, err := tx.Exec(ctx, "insert into seat (number, visit) values ($1, $2) on conflict (number) do nothing", v.Seat, v.ID)
	if err == nil && tag.RowsAffected() == 0 {
		return events.Reject("taken", "seat %d is taken", v.Seat)
	}
	return err
}

func leaveSeat(ctx context.Context, tx pgx.Tx, v *Visit) error {
	_, err := tx.Exec(ctx, "delete from seat where visit = $1", v.ID)
	return err
}

// soldSeats checks that whoever has paid has a seat, and nobody else.
func soldSeats(ctx context.Context, tx pgx.Tx, sagas []saga.Instance) error {
	for _, in := range sagas {
		var seats int
		if err := tx.QueryRow(ctx, "select count(*) from seat where visit = $1", in.ID).Scan(&seats); err != nil {
			return err
		}
		if paid := in.Status == saga.Completed; seats > 1 || (seats == 1) != paid {
			return fmt.Errorf("saga %s is %s and has %d seats", in.ID, in.Status, seats)
		}
	}
	return nil
}

var visits = sagatest.Request(VisitCinema, func(rng *rand.Rand) Place { return Place{1 + rng.IntN(2)} })

// With a database local steps are run in it, and a test can say what must hold of
// its rows. Here the runs begin with all seats free, and leave them so.
func ExampleDatabase() {
	pool, err := pgxpool.New(context.Background(), embeddedtest.Postgres(t)) // or any other
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(context.Background(), "create table seat (number integer primary key, visit uuid not null)"); err != nil {
		t.Fatal(err)
	}
	saga := cinema(takeSeat, leaveSeat)
	sagatest.Unwind(t, saga, visits, sagatest.Database(pool), sagatest.CheckRows(soldSeats))
	sagatest.Explore(t, saga, 200, visits, sagatest.Database(pool), sagatest.CheckRows(soldSeats), sagatest.Sagas(4))
	// Output:
}
