package consumer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
)

// What makes two deliveries one command, and what becomes of the second.
func TestIdentity(t *testing.T) {
	t.Parallel()
	t.Run("one id of two sources is two commands", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
		b.ID, b.Source = a.ID, "/another"
		for range 2 {
			for _, e := range []events.Event{a, b} {
				if _, err := r.process(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.wantEffects("reserve a", "reserve b")
	})
	t.Run("consumers of one database handle a command each", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		const other = "ledger"
		commands, err := consumer.NewCommands(r.pool, consumer.CommandsConfig{Name: other, Logger: r.logger}, r.handlers()...)
		if err != nil {
			t.Fatal(err)
		}
		a := command(t, reserve, 0, "a")
		if _, err := r.process(a); err != nil {
			t.Fatal(err)
		}
		if err := commands.Process(t.Context(), r.from(other, 0, a)); err != nil {
			t.Fatal(err)
		}
		r.wantEffects("reserve a", "reserve a")
	})
	// A copy may come to another process from another partition, as after a topic was
	// made anew, so that no position tells.
	for what, before := range map[string][]events.Event{"alone": nil, "in a batch": {command(t, reserve, 0, "a")}} {
		t.Run("one that another process has handled meanwhile has one effect, "+what, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			b := command(t, reserve, 1, "b")
			r.on("reserve b", func(ctx context.Context, _ pgx.Tx, call int) error {
				if call > 1 {
					return nil
				}
				return r.commands.Process(ctx, r.from(name, 3, b))
			})
			_, err := r.process(append(before, b)...)
			const uniqueViolation = "23505"
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != uniqueViolation {
				t.Errorf("error = %v, want one of the inbox", err)
			}
			r.wantEffects("reserve b")
		})
	}
}

// from returns a batch of one command that came from that partition.
func (r *rig) from(consumerName string, partition int, e events.Event) *consumer.Batch {
	r.t.Helper()
	r.exec(`insert into consumer_position (consumer, topic, partition, epoch, handled) values ($1, $2, $3, 'test', 0)`,
		consumerName, string(reserve.Topic()), partition)
	return consumer.NewBatch(consumerName, map[consumer.Source]uint64{{Topic: reserve.Topic(), Partition: partition}: 0},
		broker.Delivery{Topic: reserve.Topic(), Partition: partition, Offset: 1, Event: e})
}
