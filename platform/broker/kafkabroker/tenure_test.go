package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// commits remembers what a tenure commits, and takes a while over it.
type commits struct {
	took time.Duration
	err  error
	all  []map[int]int64
}

func (c *commits) commit(offsets map[int]int64) error {
	time.Sleep(c.took)
	c.all = append(c.all, maps.Clone(offsets))
	return c.err
}

// begin starts a tenure that holds the partitions 0 and 1 from 10 on.
func begin(c *commits) (t *tenure, end func()) {
	t = newTenure(c.commit, map[int]int64{0: 10, 1: 10})
	var running sync.WaitGroup
	running.Go(t.run)
	return t, func() {
		t.end()
		running.Wait()
	}
}

func handout1(t *tenure, partition int, offset uint64) *handout {
	return newHandout(t, broker.Delivery{Partition: partition, Offset: offset + 1}, 1)
}

func TestTenure(t *testing.T) {
	t.Run("an ack commits the position behind the message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &commits{took: time.Millisecond}
			tenure, end := begin(c)
			defer end()
			if err := handout1(tenure, 0, 10).ack(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(c.all); got != "[map[0:11]]" {
				t.Errorf("commits %s", got)
			}
		})
	})
	t.Run("acks that come while a commit is in flight share the next", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &commits{took: time.Second}
			tenure, end := begin(c)
			defer end()
			var acks sync.WaitGroup
			for _, one := range []*handout{handout1(tenure, 0, 10), handout1(tenure, 1, 10), handout1(tenure, 0, 11), handout1(tenure, 0, 12)} {
				acks.Go(func() {
					if err := one.ack(t.Context()); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			acks.Wait()
			if got := fmt.Sprint(c.all); got != "[map[0:11] map[0:13 1:11]]" {
				t.Errorf("commits %s", got)
			}
		})
	})
	t.Run("a position never goes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &commits{}
			tenure, end := begin(c)
			defer end()
			for _, offset := range []uint64{12, 10, 11, 12} {
				if err := handout1(tenure, 0, offset).ack(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if got := fmt.Sprint(c.all); got != "[map[0:13]]" {
				t.Errorf("commits %s", got)
			}
		})
	})
	t.Run("nothing is committed for a partition of others, or after the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &commits{}
			tenure, end := begin(c)
			if err := handout1(tenure, 7, 10).ack(t.Context()); !errors.Is(err, errLost) {
				t.Errorf("of another: %v", err)
			}
			end()
			if err := handout1(tenure, 0, 10).ack(t.Context()); !errors.Is(err, errLost) {
				t.Errorf("after the end: %v", err)
			}
			if len(c.all) != 0 {
				t.Errorf("commits %v", c.all)
			}
		})
	})
	t.Run("what was done before the end is committed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &commits{took: time.Second}
			tenure, end := begin(c)
			errs := make(chan error, 2)
			for offset := range uint64(2) {
				go func() { errs <- handout1(tenure, 0, 10+offset).ack(t.Context()) }()
				synctest.Wait()
			}
			end()
			for range 2 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			if got := fmt.Sprint(c.all); got != "[map[0:11] map[0:12]]" {
				t.Errorf("commits %s", got)
			}
		})
	})
	t.Run("a commit that fails fails its acks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tenure, end := begin(&commits{err: errors.New("no")})
			defer end()
			if err := handout1(tenure, 0, 10).ack(t.Context()); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	})
	t.Run("an ack waits no longer than its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tenure, end := begin(&commits{took: time.Hour})
			defer end()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			if err := handout1(tenure, 0, 10).ack(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
				t.Errorf("got %v after %s", err, time.Since(begin))
			}
		})
	})
}

func TestHandoutIsSettledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &commits{}
		tenure, end := begin(c)
		acked, retried, abandoned := handout1(tenure, 0, 10), handout1(tenure, 1, 10), handout1(tenure, 1, 11)
		if err := acked.ack(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := retried.retry(time.Minute); err != nil || retried.done || retried.delay != time.Minute {
			t.Errorf("retry: %v, %+v", err, retried)
		}
		abandoned.abandon()
		for what, err := range map[string]error{
			"ack after ack": acked.ack(t.Context()), "retry after ack": acked.retry(0), "ack after retry": retried.ack(t.Context()),
			"ack of what was given up": abandoned.ack(t.Context()),
		} {
			if !errors.Is(err, errSettled) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if !acked.done {
			t.Error("a retry has taken the ack back")
		}
		end()
		if err := abandoned.ack(t.Context()); !errors.Is(err, errLost) {
			t.Errorf("ack after the end: %v", err)
		}
		if got := fmt.Sprint(c.all); got != "[map[0:11]]" {
			t.Errorf("commits %s", got)
		}
	})
}
