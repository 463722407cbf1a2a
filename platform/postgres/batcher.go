package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Batcher lets many callers share the round trips and commits of one statement:
// while one run is under way, what is asked for meanwhile forms the next. There
// is no linger, so a caller that is alone waits for nobody. Make it with
// [NewBatcher]; it is safe for concurrent use and needs no end.
type Batcher[Q, R any] struct {
	run     func(ctx context.Context, asked []Q) ([]R, error)
	most    int
	timeout time.Duration

	mu      sync.Mutex
	queue   []*asking[Q, R]
	running bool
}

type asking[Q, R any] struct {
	question Q
	answer   R
	err      error
	done     chan struct{}
}

// NewBatcher returns a batcher that calls run with at most so many questions and
// that long to answer them. run returns one answer for each, in their order. It
// is called by one goroutine at a time, with a context of its own: what one
// caller's context carries or how it ends must not matter to the others.
//
// An error of run fails all that were asked together. Where it is none that
// passes (see [IsRetryable]), one of them may be to blame, so run is called again
// for each alone: run must leave nothing behind when it fails.
func NewBatcher[Q, R any](most int, timeout time.Duration, run func(ctx context.Context, asked []Q) ([]R, error)) *Batcher[Q, R] {
	return &Batcher[Q, R]{run: run, most: most, timeout: timeout}
}

// Do returns run's answer to the question. When ctx ends first it returns ctx's
// error, and the question may be answered nevertheless.
func (b *Batcher[Q, R]) Do(ctx context.Context, question Q) (R, error) {
	a := &asking[Q, R]{question: question, done: make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, a)
	begin := !b.running
	b.running = true
	b.mu.Unlock()
	if begin {
		go b.work()
	}
	select {
	case <-a.done:
		return a.answer, a.err
	case <-ctx.Done():
		var none R
		return none, ctx.Err()
	}
}

// work answers until nothing is asked.
func (b *Batcher[Q, R]) work() {
	for {
		b.mu.Lock()
		if len(b.queue) == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		together := b.queue[:min(b.most, len(b.queue))]
		b.queue = b.queue[len(together):]
		b.mu.Unlock()
		b.answer(together)
		for _, a := range together {
			close(a.done)
		}
	}
}

func (b *Batcher[Q, R]) answer(together []*asking[Q, R]) {
	err := b.attempt(together)
	if err == nil {
		return
	}
	alone := len(together) > 1 && !IsRetryable(err) && !errors.Is(err, ErrCommitUnknown) && !errors.Is(err, context.DeadlineExceeded)
	for i, a := range together {
		a.err = err
		if alone {
			a.err = b.attempt(together[i : i+1])
		}
	}
}

func (b *Batcher[Q, R]) attempt(together []*asking[Q, R]) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // the callers are other goroutines, which it must not hang
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	asked := make([]Q, len(together))
	for i, a := range together {
		asked[i] = a.question
	}
	answers, err := b.run(ctx, asked)
	if err != nil {
		return err
	}
	for i, a := range together {
		a.answer = answers[i]
	}
	return nil
}
