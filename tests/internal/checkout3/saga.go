package checkout3

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/saga"
)

type (
	order struct {
		ID   string `json:"id"`
		Fail bool   `json:"fail,omitempty"`
		Hold string `json:"hold,omitempty"`
	}
	start  struct{ Fail bool }
	line   struct{ Order string }
	charge struct {
		Order  string
		Amount int64
		Fail   bool
	}
	held struct{ Hold string }
)

const declined events.Code = "declined"

var (
	begin     = events.NewCommand[start, events.None]("bench.checkout.start.v1")
	reserve   = events.NewCommand[line, held]("bench.shop.reserve.v1")
	release   = events.NewCommand[line, events.None]("bench.shop.release.v1")
	authorize = events.NewCommand[charge, events.None]("bench.shop.authorize.v1", declined)
	confirm   = events.NewCommand[line, events.None]("bench.shop.confirm.v1")
)

// definition is the saga under measurement. The authorization decides.
var definition = saga.Definition[order]{
	Name: "checkout3", Version: 1,
	Start: saga.On(begin,
		func(id string, q start) order { return order{ID: id, Fail: q.Fail} },
		func(order) events.None { return events.None{} }),
	Flow: saga.Sequence[order]{
		saga.Step[order]{
			Name: "reserve",
			Do: saga.Call(reserve, func(o order) line { return line{o.ID} },
				func(o *order, reply held) { o.Hold = reply.Hold }),
			Undo: saga.Undo(reserve, release, func(o order, _ saga.Sent[line, held]) line { return line{o.ID} }),
		},
		saga.Step[order]{
			Name:  "authorize",
			Do:    saga.Call(authorize, func(o order) charge { return charge{o.ID, 450, o.Fail} }, nil),
			Pivot: true,
		},
		saga.Step[order]{Name: "confirm", Do: saga.Call(confirm, func(o order) line { return line{o.ID} }, nil)},
	},
}

const tables = `
	create table reservation (order_id uuid primary key, status text not null) with (fillfactor = 70);
	create table payment (order_id uuid primary key, amount bigint not null);
	create table confirmation (order_id uuid primary key)`

// handlers are the participant: one row for each command.
func handlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.Handle(reserve, func(ctx context.Context, tx pgx.Tx, q line) (held, error) {
			return held{q.Order}, write(ctx, tx, "insert into reservation values ($1, 'held')", q.Order)
		}),
		consumer.Handle(release, func(ctx context.Context, tx pgx.Tx, q line) (events.None, error) {
			return events.None{}, write(ctx, tx, "update reservation set status = 'released' where order_id = $1", q.Order)
		}),
		consumer.Handle(authorize, func(ctx context.Context, tx pgx.Tx, q charge) (events.None, error) {
			if q.Fail {
				return events.None{}, events.Reject(declined, "the card was declined")
			}
			return events.None{}, write(ctx, tx, "insert into payment values ($1, $2)", q.Order, q.Amount)
		}),
		consumer.Handle(confirm, func(ctx context.Context, tx pgx.Tx, q line) (events.None, error) {
			return events.None{}, write(ctx, tx, "insert into confirmation values ($1)", q.Order)
		}),
	}
}

func write(ctx context.Context, tx pgx.Tx, sql, order string, args ...any) error {
	id, err := uuid.Parse(order)
	if err != nil {
		return consumer.Terminal(err)
	}
	tag, err := tx.Exec(ctx, sql, append([]any{id}, args...)...)
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("%d rows of order %s were written", tag.RowsAffected(), order)
	}
	return err
}
