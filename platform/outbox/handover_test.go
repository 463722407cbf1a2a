package outbox_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/outbox"
)

// The broker of these tests knows no duplicates, so each copy shows.
func TestHandingLanesOver(t *testing.T) {
	t.Parallel()
	t.Run("relays that come and go publish each row once", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		config := outbox.RelayConfig{Balance: time.Millisecond, Poll: time.Millisecond, BatchMax: 50}
		r.relay("host", config)
		const guests = 20
		for n := range guests {
			_, stop := r.relay(fmt.Sprint("guest", n), config)
			for _, key := range keys {
				r.write(series(key, 3*n, 3*n+3)...)
			}
			stop()
		}
		r.awaitEmpty()
		r.wantOrder(3 * guests)
		if all, first := len(r.broker.all()), len(r.broker.first()); all != first {
			t.Errorf("%d rows were published %d times", first, all)
		}
	})
	t.Run("a lane is given up only when what was published of it is deleted", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		config := outbox.RelayConfig{Balance: time.Millisecond}
		for _, key := range keys {
			r.write(series(key, 0, 2)...)
		}
		var once sync.Once
		held := r.begin()
		published := make(chan struct{})
		r.broker.bend(nil, func() {
			once.Do(func() {
				r.in(held, "select from outbox for update") // so that nothing can be deleted
				r.relay("guest", config)
				r.await("the guest", func() bool { return members(r, "guest") == 1 })
				close(published)
			})
		})
		r.relay("host", config)
		<-published
		r.await("the host to wait for the rows", func() bool {
			return read[int](r, `select count(*) from pg_stat_activity
				where datname = current_database() and application_name = 'host' and wait_event_type = 'Lock'`) == 1
		})
		if n := r.lanes("host"); n != outbox.Lanes {
			t.Errorf("it has given up %d lanes", outbox.Lanes-n)
		}
		r.commit(held)
		r.awaitEmpty()
		r.await("a fair division", func() bool { return r.lanes("guest") == outbox.Lanes/2 })
		if all, first := len(r.broker.all()), len(r.broker.first()); all != first {
			t.Errorf("%d rows were published %d times", first, all)
		}
	})
}

// members returns how many advisory locks the process holds: one to be counted
// as a member, and one per lane.
func members(r *rig, process string) int {
	return read[int](r, `select count(*) from pg_locks join pg_stat_activity using (pid)
		where locktype = 'advisory' and datname = current_database() and application_name = $1`, process)
}
