package upstream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
)

// Reservation keeps the books of one call.
type Reservation interface {
	// Dispatch is called just before the first byte of an attempt leaves. Its error
	// refuses the attempt, and with it the call.
	Dispatch(ctx context.Context, model ai.Model) (Attempt, error)
}

// Attempt is one request to one deployment in the books. One of its functions is called
// when the attempt has ended.
type Attempt interface {
	// Settle books what was used.
	Settle(usage ai.Usage, source ai.Source) ai.NanoUSD
	// Release books nothing: the request has never left, or was refused.
	Release(reason string)
	// Uncertain says that nobody knows whether it has cost anything. known is what was
	// seen of it.
	Uncertain(reason string, known ai.Usage)
}

const (
	againBase = 200 * time.Millisecond
	againMax  = 2 * time.Second
)

// Do makes the call. It returns when the answer is there, or its first part when it
// comes in parts; the answer must be closed. An error is a *wire.Error, or what
// Dispatch returned, or that of ctx when that has ended.
func (p *Plan) Do(ctx context.Context, reservation Reservation) (*Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, orDefault(p.model.Total, TotalDefault), errTotal)
	answer, err := p.try(ctx, reservation)
	if err != nil {
		cancel()
		return nil, err
	}
	if answer.part == nil {
		cancel()
		return answer, nil
	}
	answer.part.cancelCall = cancel
	return answer, nil
}

func (p *Plan) try(ctx context.Context, reservation Reservation) (*Answer, error) {
	attempts := p.model.Attempts
	if attempts <= 0 {
		attempts = max(len(p.candidates), 2)
	}
	last := &wire.Error{
		Status: http.StatusServiceUnavailable, Code: "overloaded", RetryAfter: time.Second,
		Message: "No deployment of this model takes calls at the moment.",
	}
	var waited time.Duration
	made := 0
	out := make([]bool, len(p.candidates)) // that another try of them makes no sense
	for round := 0; made < attempts; round++ {
		tried := false
		for i, d := range p.candidates {
			if out[i] || made >= attempts {
				continue
			}
			if round > 0 && !p.rest(ctx, round, last.RetryAfter) {
				return nil, ended(ctx)
			}
			slot, ok := d.enter(time.Now())
			if !ok {
				continue
			}
			tried = true
			answer, failed := p.attempt(ctx, d, slot, reservation)
			waited += failed.took
			if answer != nil {
				answer.Attempts, answer.Waited = made+1, waited
				return answer, nil
			}
			switch {
			case failed.refusal != nil:
				return nil, failed.refusal
			case ctx.Err() != nil:
				return nil, ended(ctx)
			case !failed.again:
				return nil, failed.err
			}
			made++
			last, out[i] = failed.err, failed.leave
		}
		if !tried {
			break
		}
	}
	return nil, last
}

// ended is the error of a call whose context has ended.
func ended(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errTotal) {
		return timedOut("The upstream took too long.")
	}
	return ctx.Err()
}

// rest waits before deployments are tried again.
func (p *Plan) rest(ctx context.Context, round int, asked time.Duration) bool {
	pause := againBase << min(round-1, 4)
	pause += rand.N(pause) //nolint:gosec // it spreads load, and guards nothing
	timer := time.NewTimer(min(max(pause, asked), againMax))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// slot is the leave to make one attempt at a deployment.
type slot struct {
	deployment *deployment
	key        int
	done       func(error) // of the breaker
}

// enter asks for the leave to make an attempt: the deployment is not left alone, has
// room and a key.
func (d *deployment) enter(now time.Time) (slot, bool) {
	if n := d.running.Add(1); d.Concurrency > 0 && n > int64(d.Concurrency) {
		d.running.Add(-1)
		return slot{}, false
	}
	s := slot{deployment: d}
	var ok bool
	if s.key, ok = d.provider.keys.pick(now); !ok {
		d.running.Add(-1)
		return slot{}, false
	}
	if d.breaker != nil {
		var err error
		if s.done, err = d.breaker.Allow(); err != nil {
			d.running.Add(-1)
			return slot{}, false
		}
	}
	return s, true
}

// leave gives the leave back. failed is told to the breaker.
func (s *slot) leave(failed error) {
	s.deployment.running.Add(-1)
	if s.done != nil {
		s.done(failed)
	}
}

// result is how an attempt without an answer ended.
type result struct {
	err     *wire.Error
	refusal error // of the books: the call is over
	again   bool  // another attempt may do better
	leave   bool  // but not at this deployment
	took    time.Duration
}

// attempt makes one attempt, whose slot it gives back.
func (p *Plan) attempt(ctx context.Context, d *deployment, s slot, reservation Reservation) (*Answer, result) {
	r := &run{
		plan: p, deployment: d, slot: s, began: time.Now(),
		upstreamModel: d.upstreamName(p.request.Model, p.Model),
	}
	r.model = d.priced(d.provider.Provider, r.upstreamModel)
	if refused := r.prepare(); refused != nil {
		s.leave(nil)
		// What this one cannot do, another may.
		return nil, result{err: refused, again: len(p.candidates) > 1, leave: true}
	}
	book, err := reservation.Dispatch(ctx, r.model.With(p.Extra))
	if err != nil {
		s.leave(nil)
		return nil, result{refusal: err}
	}
	r.book = book
	answer, failure := r.send(ctx)
	took := time.Since(r.began)
	if answer != nil {
		return answer, result{took: took}
	}
	r.end(ctx, failure)
	if failure.outcome != ClientGone {
		p.router.logger.DebugContext(ctx, "attempt of an AI call ended", slog.String("deployment", d.name), slog.String("outcome", string(failure.outcome)), slog.Any("error", failure.err))
	}
	return nil, result{err: failure.err, again: failure.again, leave: failure.leave, took: took}
}

func orDefault(d, byDefault time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return byDefault
}
