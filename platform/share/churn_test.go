package share_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/share"
)

// claims are what members work on, as they see it.
type claims struct {
	mu    sync.Mutex
	owner map[int]int
}

func (c *claims) claim(t *testing.T, who int, items []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, item := range items {
		if other, taken := c.owner[item]; taken && other != who {
			t.Errorf("members %d and %d work on item %d", other, who, item)
		}
		c.owner[item] = who
	}
}

func (c *claims) drop(items []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, item := range items {
		delete(c.owner, item)
	}
}

// Members come, balance, go and are killed at random, all at the same time.
func TestNoItemHasTwoOwnersWhileMembersComeAndGo(t *testing.T) {
	pool := open(t)
	const items = 16
	work := claims{owner: make(map[int]int)}
	lifetime := func(ctx context.Context, who int, random *rand.Rand) error {
		conn, err := share.Connect(ctx, pool)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		division, err := share.Join(ctx, conn, "x", items)
		if err != nil {
			return err
		}
		for range 1 + random.IntN(8) {
			surplus, err := division.Surplus(ctx)
			if err != nil {
				return err
			}
			work.drop(surplus)
			if err := division.Release(ctx, surplus); err != nil {
				return err
			}
			if _, err := division.Take(ctx); err != nil {
				return err
			}
			work.claim(t, who, division.Held())
		}
		work.drop(division.Held())
		if random.IntN(2) == 0 {
			_, err = pool.Exec(ctx, "select pg_terminate_backend($1, 5000)", conn.PgConn().PID())
		}
		return err
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var members sync.WaitGroup
	for n := range 5 {
		members.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			for life := range 12 {
				if err := lifetime(t.Context(), 100*n+life, random); err != nil {
					t.Error(err)
				}
			}
		})
	}
	members.Wait()
	last := join(t, pool, "x", items)
	if last.balance(t); len(last.Held()) != items {
		t.Errorf("the last member holds %v", last.Held())
	}
}
