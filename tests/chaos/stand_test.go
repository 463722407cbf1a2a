package chaos

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestEnginesThatStandStill runs two engines on one database and stops one of
// them, again and again, in the middle of what it does: the other takes over, and
// the first comes back believing that it owns what it has lost.
func TestEnginesThatStandStill(t *testing.T) {
	t.Parallel()
	const seed, clients = 7, 8
	n, turns := 400, 6
	if testing.Short() {
		n, turns = 100, 2
	}
	f := startFleet(t, filepath.Join(t.TempDir(), "data"))
	const second = "engine-2"
	f.logs[second] = openLog(t, t.TempDir(), second)
	f.serve(t, second)
	t.Cleanup(func() {
		if err := f.processes[second].Stop(); err != nil {
			t.Errorf("%s: %v", second, err)
		}
	})
	shop := product.NewShop(f.processes["gateway"].HTTP)
	orders := newOrders(n, seed)
	for turn := range turns {
		part := orders[turn*n/turns : (turn+1)*n/turns]
		answered := make(chan []*order, 1) // the one result
		go func() { answered <- placeAll(t.Context(), part, clients, shop, func(*order) {}, t.Errorf) }()
		victim := f.processes[[]string{"engine", second}[turn%2]]
		time.Sleep(100 * time.Millisecond) // it is busy now
		if err := victim.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// Long enough for commands to be repeated, and shorter than a step's deadline.
		time.Sleep(6 * time.Second)
		if err := victim.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
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
	awaitEnd(t, orders, shop, 90*time.Second)
	verify(t, orders, shop, product.NewOperator(f.processes["engine"].Admin))
	f.stop(t)
}
