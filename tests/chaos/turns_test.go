package chaos

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestEveryRoleDiesInTurns runs each role as a process of its own, as production
// does, and kills one again and again while orders come in.
func TestEveryRoleDiesInTurns(t *testing.T) {
	t.Parallel()
	const seed, clients = 5, 8
	n, turns := 600, 24
	if testing.Short() {
		n, turns = 100, 5
	}
	f := startFleet(t, filepath.Join(t.TempDir(), "data"))
	shop := product.NewShop(f.processes["gateway"].HTTP)
	orders := newOrders(n, seed)
	random := rand.New(rand.NewPCG(seed, 1))
	deaths := make(map[string]int)
	for turn := range turns {
		part := orders[turn*n/turns : (turn+1)*n/turns]
		victim := roles[random.IntN(len(roles))]
		var placed atomic.Int64
		moment, now := 1+random.Int64N(int64(len(part))), make(chan struct{})
		answered := make(chan []*order, 1) // the one result
		go func() {
			answered <- placeAll(t.Context(), part, clients, shop, func(*order) {
				if placed.Add(1) == moment {
					close(now)
				}
			}, t.Errorf)
		}()
		select {
		case <-now:
		case <-time.After(30 * time.Second):
			t.Fatalf("turn %d: only %d orders of %d are accepted", turn, placed.Load(), len(part))
		}
		f.processes[victim].Kill()
		deaths[victim]++
		f.serve(t, victim)

		left := <-answered
		err := product.Await(t.Context(), 30*time.Second, func() error {
			if left = placeAll(t.Context(), left, clients, shop, func(*order) {}, t.Errorf); len(left) > 0 {
				return fmt.Errorf("turn %d: %d orders get no answer", turn, len(left))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %v", deaths)

	awaitEnd(t, orders, shop, 90*time.Second)
	verify(t, orders, shop, product.NewOperator(f.processes["engine"].Admin))
	f.stop(t)
}
