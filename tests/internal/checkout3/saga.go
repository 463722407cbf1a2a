package checkout3

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
	create table confirmation (order_id uuid primary key);
	create table bare (id uuid primary key, step smallint not null)`

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
				return events.None{}, errDeclined
			}
			return events.None{}, write(ctx, tx, "insert into payment values ($1, $2)", q.Order, q.Amount)
		}),
		consumer.Handle(confirm, func(ctx context.Context, tx pgx.Tx, q line) (events.None, error) {
			return events.None{}, write(ctx, tx, "insert into confirmation values ($1)", q.Order)
		}),
	}
}

var errDeclined = events.Reject(declined, "the card was declined")

func write(ctx context.Context, tx pgx.Tx, sql, order string, args ...any) error {
	id, err := uuid.Parse(order)
	if err != nil {
		return consumer.Terminal(err)
	}
	tag, err := tx.Exec(ctx, sql, append([]any{id}, args...)...)
	return wrote(tag, err, 1)
}

func wrote(tag pgconn.CommandTag, err error, want int) error {
	if err == nil && tag.RowsAffected() != int64(want) {
		err = fmt.Errorf("%d rows were written, want %d", tag.RowsAffected(), want)
	}
	return err
}

// batchHandlers do the same for all commands that have arrived together.
func batchHandlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.HandleAll(reserve, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[line, held]) error {
			for i := range items {
				items[i].Reply = held{items[i].Request.Order}
			}
			return writeAll(ctx, tx, "insert into reservation select id, 'held' from unnest($1::uuid[]) as id", items)
		}),
		consumer.HandleAll(release, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[line, events.None]) error {
			return writeAll(ctx, tx, "update reservation set status = 'released' where order_id = any($1::uuid[])", items)
		}),
		consumer.HandleAll(authorize, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[charge, events.None]) error {
			orders, amounts := make([]uuid.UUID, 0, len(items)), make([]int64, 0, len(items))
			for i := range items {
				if items[i].Request.Fail {
					items[i].Err = errDeclined
					continue
				}
				id, err := uuid.Parse(items[i].Request.Order)
				if err != nil {
					return consumer.Terminal(err)
				}
				orders, amounts = append(orders, id), append(amounts, items[i].Request.Amount)
			}
			tag, err := tx.Exec(ctx, "insert into payment select * from unnest($1::uuid[], $2::bigint[])", orders, amounts)
			return wrote(tag, err, len(orders))
		}),
		consumer.HandleAll(confirm, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[line, events.None]) error {
			return writeAll(ctx, tx, "insert into confirmation select * from unnest($1::uuid[])", items)
		}),
	}
}

func writeAll[R any](ctx context.Context, tx pgx.Tx, sql string, items []consumer.Item[line, R]) error {
	orders := make([]uuid.UUID, len(items))
	for i := range items {
		var err error
		if orders[i], err = uuid.Parse(items[i].Request.Order); err != nil {
			return consumer.Terminal(err)
		}
	}
	tag, err := tx.Exec(ctx, sql, orders)
	return wrote(tag, err, len(items))
}
