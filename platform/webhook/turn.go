package webhook

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/countermand/countermand/platform/pace"
	"github.com/countermand/countermand/platform/share"
)

// turn is a session at work. Everything in it belongs to the goroutine of run.
type turn struct {
	sender   *Sender
	division *share.Division
	held     []int // lanes that are served: those owned, without those to be given up
	leaving  []int
	running  map[uuid.UUID]*job
	done     chan ending
	idle     map[uuid.UUID]time.Time // jobs that found nothing to do, although something is due
	told     time.Time               // of subscriptions that cannot be read
	pace     pace.Pace
	jobs     sync.WaitGroup
}

// ending tells that a job has ended, and whether it did anything.
type ending struct {
	id   uuid.UUID
	done bool
}

// job is what goes on for one subscription.
type job struct {
	lane   int
	cancel context.CancelFunc // takes nothing more; what is in hand is finished
}

func (t *turn) run(ctx context.Context) error {
	balance := time.NewTicker(min(time.Second, 50*t.sender.config.Poll))
	defer balance.Stop()
	if err := t.share(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		began := time.Now()
		if err := t.look(ctx); err != nil {
			return err
		}
		t.pace.Ended(began, 2)
		if err := t.wait(ctx, balance.C); err != nil {
			return err
		}
	}
	return nil
}

// wait returns when it is time to look again.
func (t *turn) wait(ctx context.Context, balance <-chan time.Time) error {
	rest := time.NewTimer(t.pace.Rest(0))
	defer rest.Stop()
	poll := time.NewTimer(t.sender.config.Poll)
	defer poll.Stop()
	rested, again := false, false
	for !rested || !again {
		select {
		case <-ctx.Done():
			return nil
		case <-balance:
			t.forget()
			if err := t.share(ctx); err != nil {
				return err
			}
		case e := <-t.done:
			t.running[e.id].cancel()
			delete(t.running, e.id)
			if !e.done {
				// Such as when all that is due waits for an earlier one of its key.
				t.idle[e.id] = time.Now().Add(t.sender.config.Poll)
				continue
			}
			again = true // what came for it meanwhile was passed over
		case <-t.sender.wake:
			clear(t.idle)
			again = true
		case <-poll.C:
			again = true
		case <-rest.C:
			rested = true
		}
	}
	return nil
}

// end stops every job, and returns when what they have in hand is finished.
func (t *turn) end() {
	for _, j := range t.running {
		j.cancel()
	}
	ended := make(chan struct{})
	go func() {
		t.jobs.Wait()
		close(ended)
	}()
	for {
		select {
		case <-t.done:
		case <-ended:
			return
		}
	}
}

// share takes free lanes and gives up those beyond the fair share, once nothing goes on
// in them.
func (t *turn) share(ctx context.Context) error {
	work := context.WithoutCancel(ctx)
	surplus, err := t.division.Surplus(work)
	if err != nil {
		return err
	}
	t.leaving = surplus
	busy := make(map[int]bool)
	for _, j := range t.running {
		if slices.Contains(surplus, j.lane) {
			busy[j.lane] = true
			j.cancel()
		}
	}
	free := slices.DeleteFunc(slices.Clone(surplus), func(lane int) bool { return busy[lane] })
	if len(free) > 0 {
		if err := t.division.Release(work, free); err != nil {
			return err
		}
	}
	if _, err := t.division.Take(work); err != nil {
		return err
	}
	t.held = slices.DeleteFunc(t.division.Held(), func(lane int) bool { return slices.Contains(t.leaving, lane) })
	return nil
}

// start runs a job for a subscription, unless one is running.
func (t *turn) start(ctx context.Context, id uuid.UUID, run func(ctx context.Context) (done bool)) {
	take, cancel := context.WithCancel(ctx)
	t.running[id] = &job{lane: laneOf(id), cancel: cancel}
	t.jobs.Go(func() {
		done := false
		defer func() { t.done <- ending{id, done} }()
		defer func() {
			if p := recover(); p != nil {
				t.sender.config.Logger.ErrorContext(ctx, "webhook sender panicked", "subscription", id, "panic", p)
			}
		}()
		done = run(take)
	})
}

// jobsFactor is how many jobs there may be for each request at a time: each holds a queue
// in memory.
const jobsFactor = 2

// unreadableRest is how often the log tells of subscriptions that cannot be read.
const unreadableRest = time.Minute

// look finds the subscriptions for which something is to be done, and starts it.
func (t *turn) look(ctx context.Context) error {
	work, cancel := detached(ctx, 30*time.Second)
	defer cancel()
	busy := append([]uuid.UUID{}, slices.Collect(maps.Keys(t.running))...) // not nil, which would be null
	rows, err := t.sender.store.pool.Query(work, `
		select `+rowColumns+`, coalesce(ask_at <= clock_timestamp(), false) from webhook_subscription as s
		where lane = any($1::smallint[]) and not id = any($2::uuid[]) and (
			ask_at <= clock_timestamp() and state in ('pending', 'active', 'paused')
			or state = 'active' and (rest_until is null or rest_until <= clock_timestamp()) and exists (
				select from webhook_delivery as d
				where d.subscription = s.id and d.state = 'pending' and d.due_at <= clock_timestamp()))`, t.held, busy)
	if err != nil {
		return fmt.Errorf("look for due deliveries: %w", err)
	}
	defer rows.Close()
	type todo struct {
		*row
		ask bool
	}
	var due []todo
	for rows.Next() {
		var d todo
		if d.row, err = t.sender.store.scan(rows, &d.ask); err != nil {
			t.unreadable(ctx, err)
			continue
		}
		if d.unopened != nil {
			t.unreadable(ctx, fmt.Errorf("subscription %s: %w", d.id, d.unopened))
			continue
		}
		due = append(due, d)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look for due deliveries: %w", err)
	}
	now := time.Now()
	for _, d := range due {
		switch {
		case now.Before(t.idle[d.id]):
			continue
		case len(t.running) >= jobsFactor*t.sender.config.InFlightMax:
			return nil // the end of one is a reason to look again
		}
		delete(t.idle, d.id)
		if d.ask {
			t.start(ctx, d.id, func(ctx context.Context) bool { return t.sender.ask(ctx, d.row) })
			continue
		}
		k, err := t.sender.newSink(d.row)
		if err != nil {
			t.unreadable(ctx, err)
			continue
		}
		t.start(ctx, d.id, k.run)
	}
	return nil
}

// forget drops the limiters that are no stricter than a fresh one would be, of
// subscriptions for which nothing goes on.
func (t *turn) forget() {
	maps.DeleteFunc(t.sender.limiters, func(id uuid.UUID, l *rate.Limiter) bool {
		return t.running[id] == nil && l.Tokens() >= limiterBurst
	})
}

// unreadable tells of a subscription that cannot be served, now and then.
func (t *turn) unreadable(ctx context.Context, err error) {
	if time.Since(t.told) < unreadableRest {
		return
	}
	t.told = time.Now()
	t.sender.config.Logger.ErrorContext(ctx, "webhook subscription cannot be read", "error", err)
}
