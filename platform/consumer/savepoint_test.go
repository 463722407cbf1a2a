package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
)

var count = events.NewCommand[item, events.None]("test.stock.count.v1")

// The transaction that a handler gets behaves as any other from its first
// statement on, and its writes can be taken back alone, whatever they came by.
func TestHandlerTransaction(t *testing.T) {
	t.Parallel()
	const insert = "insert into stock values ($1)"
	writes := map[string]func(ctx context.Context, tx pgx.Tx, item string) error{
		"Exec": func(ctx context.Context, tx pgx.Tx, item string) error {
			tag, err := tx.Exec(ctx, insert, item)
			if err == nil && tag.RowsAffected() != 1 {
				err = fmt.Errorf("tag %s", tag)
			}
			return err
		},
		"Exec of several statements": func(ctx context.Context, tx pgx.Tx, item string) error {
			_, err := tx.Exec(ctx, "set local work_mem = '1MB'; insert into stock values ('"+item+"')")
			return err
		},
		"Exec in the simple protocol": func(ctx context.Context, tx pgx.Tx, item string) error {
			_, err := tx.Exec(ctx, insert, pgx.QueryExecModeSimpleProtocol, item)
			return err
		},
		"Exec with named arguments": func(ctx context.Context, tx pgx.Tx, item string) error {
			_, err := tx.Exec(ctx, "insert into stock values (@item)", pgx.NamedArgs{"item": item})
			return err
		},
		"Query": func(ctx context.Context, tx pgx.Tx, item string) error {
			rows, _ := tx.Query(ctx, insert+" returning item", item)
			got, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			if err == nil && got != item {
				err = fmt.Errorf("got %s", got)
			}
			return err
		},
		"Query in the simple protocol": func(ctx context.Context, tx pgx.Tx, item string) error {
			rows, _ := tx.Query(ctx, insert+" returning item", pgx.QueryExecModeSimpleProtocol, item)
			_, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			return err
		},
		"Query closed early": func(ctx context.Context, tx pgx.Tx, item string) error {
			rows, err := tx.Query(ctx, "with w as ("+insert+" returning item) select item, n from w, generate_series(1, 1000) as n", item)
			if err != nil {
				return err
			}
			if !rows.Next() {
				return errors.New("no row")
			}
			rows.Close()
			rows.Close()
			if rows.Err() != nil {
				return rows.Err()
			}
			_, err = tx.Exec(ctx, "select $1::int", 1) // the connection is free again
			return err
		},
		"QueryRow": func(ctx context.Context, tx pgx.Tx, item string) error {
			return tx.QueryRow(ctx, insert+" returning item", item).Scan(&item)
		},
		"QueryRow without a row": func(ctx context.Context, tx pgx.Tx, item string) error {
			err := tx.QueryRow(ctx, "select item from stock where item = $1", "nowhere").Scan(&item)
			if !errors.Is(err, pgx.ErrNoRows) {
				return fmt.Errorf("want no rows, got %w", err)
			}
			_, err = tx.Exec(ctx, insert, item)
			return err
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx, item string) error {
			var batch pgx.Batch
			var got int
			batch.Queue(insert, item)
			batch.Queue("select 7").QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
			if err := tx.SendBatch(ctx, &batch).Close(); err != nil || got != 7 {
				return fmt.Errorf("got %d, %w", got, err)
			}
			return nil
		},
		"CopyFrom": func(ctx context.Context, tx pgx.Tx, item string) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"stock"}, []string{"item"}, pgx.CopyFromRows([][]any{{item}}))
			return err
		},
		"Begin": func(ctx context.Context, tx pgx.Tx, item string) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, insert, item)
				return err
			})
		},
		"Begin left open": func(ctx context.Context, tx pgx.Tx, item string) error {
			inner, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			_, err = inner.Exec(ctx, insert, item)
			return err
		},
		"Prepare": func(ctx context.Context, tx pgx.Tx, item string) error {
			if _, err := tx.Prepare(ctx, "by_name", insert); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "by_name", item)
			return err
		},
		"Conn": func(ctx context.Context, tx pgx.Tx, item string) error {
			_, err := tx.Conn().Exec(ctx, insert, item)
			return err
		},
		"LargeObjects": func(ctx context.Context, tx pgx.Tx, item string) error {
			objects := tx.LargeObjects()
			if _, err := objects.Create(ctx, 0); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, insert, item)
			return err
		},
		"after a refused Commit and Rollback": func(ctx context.Context, tx pgx.Tx, item string) error {
			if tx.Commit(ctx) == nil || tx.Rollback(ctx) == nil {
				return errors.New("the handler ended the transaction")
			}
			_, err := tx.Exec(ctx, insert, item)
			return err
		},
	}
	for what, write := range writes {
		t.Run(what+" is kept by a success and taken back by a rejection", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.counting(write)
			for _, behind := range []string{"first", "later"} { // with and without a savepoint to release
				yes, no, also := command(t, count, 0, "yes "+behind), command(t, count, 0, "no "+behind), command(t, reserve, 1, behind)
				all := []events.Event{no, yes, also}
				if behind == "later" {
					all = []events.Event{also, no, yes}
				}
				if _, err := r.process(all...); err != nil {
					t.Fatal(err)
				}
				r.wantReply(no, "out_of_stock")
				r.wantReply(yes, "")
				r.wantReply(also, "")
			}
			r.wantEffects("reserve first", "reserve later")
			if n := read[int](r, "select count(*) from stock where item like 'no %'"); n != 0 {
				t.Error("a write of the rejected command was kept")
			}
			if n := read[int](r, "select count(*) from pg_largeobject_metadata"); what == "LargeObjects" && n != 2 {
				t.Errorf("%d large objects, want those of the two successes", n)
			}
			if n := read[int](r, "select count(*) from stock where item like 'yes %'"); n != 2 {
				t.Error("a write of the command that succeeded is missing")
			}
		})
	}

	// A first statement that never runs means that there is no savepoint. It must
	// not be taken for the neighbour's.
	broken := map[string]func(ctx context.Context, tx pgx.Tx, item string) error{
		"cannot be prepared": func(ctx context.Context, tx pgx.Tx, item string) error {
			_, err := tx.Exec(ctx, "insert into nowhere values ($1)", item)
			return err
		},
		"has an argument that cannot be encoded": func(ctx context.Context, tx pgx.Tx, _ string) error {
			_, err := tx.Exec(ctx, insert, struct{}{})
			return err
		},
		"cannot be prepared, as CollectRows tells": func(ctx context.Context, tx pgx.Tx, item string) error {
			rows, _ := tx.Query(ctx, "select item from nowhere where item = $1", item)
			if rows == nil {
				t.Error("Query returned no rows to ask for the error")
				return nil
			}
			_, err := pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		},
		"cannot be prepared, as Scan tells": func(ctx context.Context, tx pgx.Tx, item string) error {
			return tx.QueryRow(ctx, "select item from nowhere where item = $1", item).Scan(&item)
		},
	}
	for what, write := range broken {
		t.Run("a first statement that "+what+" costs the neighbours nothing", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.counting(func(ctx context.Context, tx pgx.Tx, item string) error {
				if err := write(ctx, tx, item); err != nil {
					return consumer.Terminal(err)
				}
				return errors.New("the statement succeeded")
			})
			var want []string
			var all []events.Event
			for n := range 6 { // more than one of them share a batch
				all = append(all, command(t, reserve, n%partitions, strconv.Itoa(n)))
				want = append(want, fmt.Sprint("reserve ", n))
			}
			r.send(slices.Concat(all[:3], []events.Event{command(t, count, 2, "bad")}, all[3:])...)
			r.feed()
			for _, e := range all {
				r.wantReply(e, "")
			}
			rows, _ := r.pool.Query(t.Context(), "select verb || ' ' || item from effect order by item")
			if got, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(got, want) {
				t.Errorf("effects %q, want %q; %v", got, want, err)
			}
			if got := r.letters(1)[0]; got.Type != count.Type() || got.Attempts > 2 {
				t.Errorf("dead letter %+v", got)
			}
		})
	}
}

// counting adds a handler of count that writes and then, for an item whose name
// begins with "no", rejects.
func (r *rig) counting(write func(ctx context.Context, tx pgx.Tx, item string) error) {
	r.t.Helper()
	r.commands = r.processor(r.wake, 3, consumer.Handle(count, func(ctx context.Context, tx pgx.Tx, request item) (events.None, error) {
		if err := write(ctx, tx, request.Name); err != nil {
			return events.None{}, err
		}
		if request.Name[:2] == "no" {
			return events.None{}, events.Reject("out_of_stock", "none")
		}
		return events.None{}, nil
	}))
}
