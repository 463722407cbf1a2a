package saga_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

func TestBegin(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	begun := func(b *bench, key string, request booking) (id string, err error) {
		b.t.Helper()
		failed := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
			id, err = saga.Begin(ctx, b.engine, tx, begin, key, request)
			_, alive := tx.Exec(ctx, "select 1")
			return alive
		})
		if failed != nil {
			b.t.Fatal(failed)
		}
		return id, err
	}
	t.Run("a saga and its command commit with the caller", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		id, err := begun(b, "order-1", booking{Trip: "x"})
		if err != nil || id != saga.KeyID("trip", "order-1") {
			t.Fatalf("Begin() = %s, %v", id, err)
		}
		b.want(id, saga.Running, 1)
		b.wantSent(id, "alpha.do")
		b.advance(id, "alpha", "beta", "gamma", "delta")
		b.want(id, saga.Completed, 5)
	})
	t.Run("or not at all", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		tx, err := b.pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		id, err := saga.Begin(ctx, b.engine, tx, begin, "order-1", booking{Trip: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, err := saga.NewReader(b.pool).Get(ctx, id); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("Get() = %v", err)
		}
		b.wantSent(id, "")
	})
	t.Run("the same key and request again is the same saga", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		first, err := begun(b, "order-1", booking{Trip: "x"})
		second, err2 := begun(b, "order-1", booking{Trip: "x"})
		if first != second || errors.Join(err, err2) != nil {
			t.Errorf("begun %s and %s: %v, %v", first, second, err, err2)
		}
		b.want(first, saga.Running, 1)
		b.wantSent(first, "alpha.do")
	})
	t.Run("the same key with another request is a conflict", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		first, _ := begun(b, "order-1", booking{Trip: "x"})
		second, err := begun(b, "order-1", booking{Trip: "y"})
		if !errors.Is(err, saga.ErrKeyConflict) || second != first {
			t.Errorf("Begin() = %s, %v; want %s and a conflict", second, err, first)
		}
		if other, err := begun(b, "order-2", booking{Trip: "y"}); err != nil || other == first {
			t.Errorf("another key: %s, %v", other, err)
		}
	})
	t.Run("transactions that begin it at the same time wait for each other", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		var (
			group     sync.WaitGroup
			conflicts atomic.Int32
		)
		for i := range 6 {
			group.Go(func() {
				request := booking{Trip: "x"}
				if i == 0 {
					request.Trip = "y"
				}
				if _, err := begun(b, "order-1", request); errors.Is(err, saga.ErrKeyConflict) {
					conflicts.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		id := saga.KeyID("trip", "order-1")
		b.want(id, saga.Running, 1)
		b.wantSent(id, "alpha.do")
		if n := conflicts.Load(); n != 1 && n != 5 {
			t.Errorf("%d conflicts, want 1 or 5", n)
		}
	})
	t.Run("what comes as a command is the same saga", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		message, err := saga.BeginMessage("trip", begin, "order-1", booking{Trip: "x"}, dawn)
		if err != nil {
			t.Fatal(err)
		}
		start := startOf(t, message.Event.ID)
		start.Event = message.Event
		b.process(start)
		id, err := begun(b, "order-1", booking{Trip: "x"})
		if err != nil || id != message.Event.ID {
			t.Errorf("Begin() = %s, %v", id, err)
		}
		b.want(id, saga.Running, 1)
	})
	t.Run("what cannot be begun says why", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		if _, err := begun(b, "", booking{}); err == nil || !strings.Contains(err.Error(), "the key is empty") {
			t.Errorf("no key: %v", err)
		}
		err := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
			_, err := saga.Begin(ctx, b.engine, tx, doA, "k", booking{})
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "no definition") {
			t.Errorf("a command that starts nothing: %v", err)
		}
	})
}
