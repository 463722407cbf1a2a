package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// shelf is a publisher in memory whose answers can be bent.
type shelf struct {
	mu      sync.Mutex
	stored  []string
	known   []string // publish ids
	batches int
	refuse  func(id string) error // nil: takes everything
}

func (s *shelf) PublishBatch(_ context.Context, messages []broker.Message) []broker.Receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	receipts := make([]broker.Receipt, len(messages))
	var failed error
	for i, m := range messages {
		if failed == nil && s.refuse != nil {
			failed = s.refuse(m.Event.ID)
		}
		if receipts[i].Err = failed; failed == nil {
			s.stored = append(s.stored, m.Event.ID)
			if m.PublishID != "" {
				s.known = append(s.known, m.PublishID)
			}
		} else if i > 0 && receipts[i-1].Err != nil {
			receipts[i].Err = fmt.Errorf("%w: behind another", broker.ErrUnavailable)
		}
	}
	return receipts
}

func (s *shelf) bend(refuse func(id string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

func (s *shelf) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stored)
}

// letters returns messages whose ids are those numbers.
func letters(from, to int) (all []broker.Message) {
	for n := from; n < to; n++ {
		all = append(all, broker.Message{Topic: "test.things.events", Event: events.Event{ID: strconv.Itoa(n)}})
	}
	return all
}

func numbers(from, to int) (all []string) {
	for n := from; n < to; n++ {
		all = append(all, strconv.Itoa(n))
	}
	return all
}

// dispatching runs a dispatcher and returns how to stop it.
func dispatching(t *testing.T, s *shelf, config broker.DispatcherConfig) (d *broker.Dispatcher, outcome func(string) float64, stop func()) {
	t.Helper()
	registry := prometheus.NewRegistry()
	config.Logger, config.Metrics = slog.New(slog.DiscardHandler), registry
	d = broker.NewDispatcher(s, config)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	outcome = func(name string) (n float64) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				for _, label := range metric.GetLabel() {
					if label.GetName() == "outcome" && label.GetValue() == name {
						n += metric.GetCounter().GetValue()
					}
				}
			}
		}
		return n
	}
	return d, outcome, func() {
		cancel()
		running.Wait()
	}
}

var errAway = fmt.Errorf("%w: away", broker.ErrUnavailable)

func TestDispatcher(t *testing.T) {
	t.Parallel()
	t.Run("has the broker remember no publish ids, and leaves the sender's messages alone", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{}
			d, _, stop := dispatching(t, s, broker.DispatcherConfig{})
			all := letters(0, 2)
			all[0].PublishID, all[1].PublishID = "a", "b"
			d.Send(all...)
			synctest.Wait()
			if got := s.all(); !slices.Equal(got, numbers(0, 2)) || len(s.known) > 0 {
				t.Errorf("stored %v, with the publish ids %q", got, s.known)
			}
			if all[0].PublishID != "a" || all[1].PublishID != "b" {
				t.Errorf("the sender has %q and %q", all[0].PublishID, all[1].PublishID)
			}
			stop()
		})
	})
	t.Run("publishes in order, in shared batches", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{})
			for n := range 3000 {
				d.Send(letters(n, n+1)...)
			}
			synctest.Wait()
			if got := s.all(); !slices.Equal(got, numbers(0, 3000)) || outcome("stored") != 3000 {
				t.Errorf("%d stored, %v counted", len(got), outcome("stored"))
			}
			if s.batches >= 3000 {
				t.Errorf("%d batches", s.batches)
			}
			stop()
		})
	})
	t.Run("waits for a broker that is away, and takes up where it stopped", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{refuse: func(id string) error {
				if id == "7" {
					return errAway
				}
				return nil
			}}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{})
			d.Send(letters(0, 10)...)
			synctest.Wait()
			d.Send(letters(10, 20)...)
			time.Sleep(time.Minute)
			if got := s.all(); !slices.Equal(got, numbers(0, 7)) {
				t.Errorf("stored %v", got)
			}
			if s.batches < 20 || s.batches > 60 {
				t.Errorf("%d attempts in a minute", s.batches)
			}
			s.bend(nil)
			time.Sleep(3 * time.Second)
			if got := s.all(); !slices.Equal(got, numbers(0, 20)) || outcome("given_up") != 0 {
				t.Errorf("stored %v", got)
			}
			stop()
		})
	})
	t.Run("what the broker never takes holds nothing up", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{refuse: func(id string) error {
				if id == "3" {
					return fmt.Errorf("%w: too large", broker.ErrRejected)
				}
				return nil
			}}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{})
			d.Send(letters(0, 6)...)
			time.Sleep(time.Second)
			if got := s.all(); !slices.Equal(got, []string{"0", "1", "2", "4", "5"}) || outcome("rejected") != 1 {
				t.Errorf("stored %v, %v rejected", got, outcome("rejected"))
			}
			stop()
		})
	})
	t.Run("Send waits for room, and not for longer than its patience", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{refuse: func(string) error { return errAway }}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{Max: 10, Patience: 3 * time.Second})
			d.Send(letters(0, 12)...) // more than fit, when nothing else is there
			begin := time.Now()
			d.Send(letters(12, 13)...)
			if took := time.Since(begin); took != 3*time.Second || outcome("given_up") != 1 {
				t.Errorf("it took %s, %v given up", took, outcome("given_up"))
			}
			begin = time.Now()
			time.AfterFunc(time.Second, func() { s.bend(nil) })
			d.Send(letters(13, 14)...)
			if took := time.Since(begin); took < time.Second || took >= 3*time.Second {
				t.Errorf("it took %s", took)
			}
			synctest.Wait()
			if got := s.all(); !slices.Equal(got, append(numbers(0, 12), "13")) || outcome("given_up") != 1 {
				t.Errorf("stored %v", got)
			}
			stop()
		})
	})
	t.Run("a few large messages fill it as many small ones do", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{refuse: func(string) error { return errAway }}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{BytesMax: 1000})
			large := letters(0, 3)
			for i := range large {
				large[i].Event.Data = make([]byte, 400)
				d.Send(large[i])
			}
			if outcome("given_up") != 1 {
				t.Errorf("%v given up", outcome("given_up"))
			}
			s.bend(nil)
			time.Sleep(3 * time.Second)
			d.Send(large[2])
			synctest.Wait()
			if got := s.all(); !slices.Equal(got, numbers(0, 3)) {
				t.Errorf("stored %v", got)
			}
			stop()
		})
	})
	t.Run("what was sent before the end is published, and what comes after it is given up", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{refuse: func(string) error { return errAway }}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{})
			d.Send(letters(0, 2000)...)
			synctest.Wait()
			time.AfterFunc(time.Second, func() { s.bend(nil) })
			stop()
			if got := s.all(); !slices.Equal(got, numbers(0, 2000)) {
				t.Errorf("%d stored", len(got))
			}
			d.Send(letters(0, 1)...)
			if outcome("given_up") != 1 || len(s.all()) != 2000 {
				t.Errorf("%v given up, %d stored", outcome("given_up"), len(s.all()))
			}
		})
	})
	t.Run("a broker that is away does not keep it from ending", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{refuse: func(string) error { return errAway }}
			d, outcome, stop := dispatching(t, s, broker.DispatcherConfig{Max: 1})
			d.Send(letters(0, 1)...)
			synctest.Wait()
			waiting := make(chan struct{})
			go func() {
				d.Send(letters(1, 2)...)
				close(waiting)
			}()
			synctest.Wait()
			begin := time.Now()
			stop()
			<-waiting
			if took := time.Since(begin); took > 3*time.Second || outcome("given_up") != 2 {
				t.Errorf("it took %s, %v given up", took, outcome("given_up"))
			}
		})
	})
}
