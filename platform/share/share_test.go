package share_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/countermand/countermand/platform/share"
)

// owners checks that no item has two owners and returns how many have one.
func owners(t *testing.T, members ...*member) int {
	t.Helper()
	seen := make(map[int]int)
	for i, m := range members {
		held := m.Held()
		if !slices.IsSorted(held) {
			t.Errorf("member %d holds %v, out of order", i, held)
		}
		for _, item := range held {
			if other, twice := seen[item]; twice {
				t.Errorf("item %d is held by members %d and %d", item, other, i)
			}
			seen[item] = i
		}
	}
	return len(seen)
}

func TestDivision(t *testing.T) {
	t.Run("one member holds everything", func(t *testing.T) {
		m := join(t, open(t), "x", 8)
		if len(m.Held()) != 0 {
			t.Errorf("it holds %v before it has taken any", m.Held())
		}
		if !m.balance(t) || !slices.Equal(m.Held(), []int{0, 1, 2, 3, 4, 5, 6, 7}) {
			t.Errorf("it holds %v", m.Held())
		}
		if m.balance(t) {
			t.Error("it took more than everything")
		}
	})
	for _, one := range []struct{ items, members int }{{8, 2}, {8, 3}, {16, 5}, {8, 5}, {3, 5}} {
		t.Run(fmt.Sprintf("%d items are divided fairly among %d members that come one by one, and go", one.items, one.members), func(t *testing.T) {
			pool := open(t)
			var members []*member
			settle := func() {
				for range 3 { // give up, take, and nothing more to do
					for _, m := range members {
						m.balance(t)
						if held, n := len(m.Held()), len(members); held > (one.items+n-1)/n {
							t.Errorf("a member of %d took until it held %d of %d items", n, held, one.items)
						}
						owners(t, members...)
					}
				}
				n := len(members)
				if got := owners(t, members...); got != one.items {
					t.Errorf("with %d members %d of %d items have an owner", n, got, one.items)
				}
				for i, m := range members {
					if held := len(m.Held()); held < one.items/n || held > (one.items+n-1)/n {
						t.Errorf("member %d of %d holds %d of %d items", i, n, held, one.items)
					}
				}
			}
			for range one.members {
				members = append(members, join(t, pool, "x", one.items))
				settle()
			}
			for len(members) > 1 {
				members[0].leave(t, members[1])
				members = members[1:]
				settle()
			}
		})
	}
	t.Run("a dead member's items are free at once", func(t *testing.T) {
		pool := open(t)
		dying, waiting := join(t, pool, "x", 8), join(t, pool, "x", 8)
		dying.balance(t)
		waiting.balance(t)
		held := len(waiting.Held())
		// The server ends the session, as it does when the process is killed.
		if _, err := waiting.conn.Exec(t.Context(), "select pg_terminate_backend($1, 5000)", dying.conn.PgConn().PID()); err != nil {
			t.Fatal(err)
		}
		if !waiting.balance(t) || len(waiting.Held()) != 8 {
			t.Errorf("the other one held %d and holds %v", held, waiting.Held())
		}
		if _, err := dying.Take(t.Context()); err == nil {
			t.Error("the dead one could take more")
		}
	})
	t.Run("nothing is taken from a member that has not given it up", func(t *testing.T) {
		pool := open(t)
		first := join(t, pool, "x", 8)
		first.balance(t)
		second := join(t, pool, "x", 8)
		if second.balance(t) {
			t.Errorf("the second holds %v while the first works on everything", second.Held())
		}
		surplus, err := first.Surplus(t.Context())
		if err != nil || len(surplus) != 4 || len(first.Held()) != 8 {
			t.Errorf("surplus %v of %v, %v", surplus, first.Held(), err)
		}
	})
	t.Run("members that balance at the same time never share an item", func(t *testing.T) {
		pool := open(t)
		members := make([]*member, 4)
		for i := range members {
			members[i] = join(t, pool, "x", 16)
		}
		for range 20 {
			var balancing sync.WaitGroup
			for _, m := range members {
				balancing.Go(func() { m.balance(t) })
			}
			balancing.Wait()
			owners(t, members...)
		}
		if n := owners(t, members...); n != 16 {
			t.Errorf("%d of 16 items have an owner", n)
		}
	})
	t.Run("divisions of other names and databases are apart", func(t *testing.T) {
		pool := open(t)
		members := []*member{join(t, pool, "x", 8), join(t, pool, "y", 8), join(t, open(t), "x", 8)}
		for _, m := range members {
			m.balance(t)
		}
		for i, m := range members {
			if len(m.Held()) != 8 {
				t.Errorf("member %d holds %v", i, m.Held())
			}
		}
	})
	t.Run("it does not hand out its own list", func(t *testing.T) {
		m := join(t, open(t), "x", 4)
		m.balance(t)
		held := m.Held()
		held[0] = 99
		if !slices.Equal(m.Held(), []int{0, 1, 2, 3}) {
			t.Errorf("it holds %v", m.Held())
		}
	})
}

func TestConnect(t *testing.T) {
	t.Run("the connection does not count against the pool", func(t *testing.T) {
		pool := open(t)
		for range pool.Config().MaxConns + 1 {
			conn, err := share.Connect(t.Context(), pool)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
		}
		if err := pool.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("a server that cannot be reached is an error", func(t *testing.T) {
		pool := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := share.Connect(ctx, pool); err == nil {
			t.Error("there was none")
		}
	})
}
