package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestKillNineLosesNothing kills a whole dev process twice while it works on
// 2,000 checkouts: first the process alone, which takes its Postgres with it,
// then, while it works off what it found, everything at the same moment.
func TestKillNineLosesNothing(t *testing.T) {
	t.Parallel()
	const seed, clients = 11, 64
	n := 2000
	if testing.Short() {
		n = 200
	}
	data := filepath.Join(t.TempDir(), "data")
	log := openLog(t, t.TempDir(), "dev")
	begin := func() (*product.Dev, product.Shop, product.Operator) {
		t.Helper()
		dev, err := product.StartDev(t.Context(), binary, data, log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(dev.Kill)
		return dev, product.NewShop(dev.HTTP), product.NewOperator(dev.Admin)
	}
	orders := newOrders(n, seed)

	dev, shop, operator := begin()
	below, err := product.Descendants(t.Context(), dev.PID)
	if err != nil || len(below) == 0 {
		t.Fatalf("below the process run %v (error %v), want a private Postgres", below, err)
	}
	var accepted atomic.Int64
	count := func(*order) { accepted.Add(1) }
	killed := make(chan counted, 1) // the one kill
	go func() {
		killed <- killInTheMiddle(t.Context(), operator, dev.Kill, func(c product.Counts) bool {
			running := int(accepted.Load()) - c.Ended()
			return int(accepted.Load()) >= n/2 && c.Ended() >= n/40 && running >= n/20
		})
	}()
	left := placeAll(t.Context(), orders, clients, shop, count, t.Errorf)
	at := <-killed
	t.Logf("killed with %d orders accepted, %d of them ended, %d unanswered", accepted.Load(), at.counts.Ended(), len(left))
	if at.err != nil {
		t.Fatal(at.err)
	}
	if err := product.AwaitGone(t.Context(), below, 10*time.Second); err != nil {
		t.Errorf("the private Postgres outlives the process: %v", err)
	}

	// The process comes back, and is killed again while it makes up for lost time.
	dev, shop, operator = begin()
	before, err := operator.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		killed <- killInTheMiddle(t.Context(), operator, func() {
			if err := dev.KillTree(t.Context()); err != nil {
				t.Error(err)
			}
		}, func(c product.Counts) bool { return c.Ended() >= before.Ended()+n/40 })
	}()
	left = placeAll(t.Context(), left, clients, shop, count, t.Errorf)
	at = <-killed
	t.Logf("killed again with %d ended, %d unanswered", at.counts.Ended(), len(left))
	if at.err != nil {
		t.Fatal(at.err)
	}

	dev, shop, operator = begin()
	err = product.Await(t.Context(), time.Minute, func() error {
		if left = placeAll(t.Context(), left, clients, shop, count, t.Errorf); len(left) > 0 {
			return fmt.Errorf("%d orders get no answer", len(left))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range orders { // what was answered before the kills still is
		if err := o.place(t.Context(), shop, t.Errorf); err != nil {
			t.Fatal(err)
		}
	}
	awaitEnd(t, orders, shop, time.Minute)
	verify(t, orders, shop, operator)
	if err := dev.Stop(); err != nil {
		t.Error(err)
	}
}

// counted is what was seen last before a kill.
type counted struct {
	counts product.Counts
	err    error
}

// killInTheMiddle kills when the time has come, and returns what it last saw.
func killInTheMiddle(ctx context.Context, operator product.Operator, kill func(), now func(product.Counts) bool) (c counted) {
	defer kill()
	c.err = product.Await(ctx, time.Minute, func() error {
		counts, err := operator.Counts(ctx)
		if err != nil {
			return err
		}
		if c.counts = counts; !now(counts) {
			return fmt.Errorf("there are %v sagas, so it is not the time for a kill", counts)
		}
		return nil
	})
	return c
}
