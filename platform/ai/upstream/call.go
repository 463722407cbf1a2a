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
	deadline := time.Now().Add(orDefault(p.model.Total, TotalDefault))
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
			if round > 0 {
				if err := rest(ctx, round, last.RetryAfter, deadline); err != nil {
					return nil, err
				}
			}
			slot, ok := d.enter(time.Now())
			if !ok {
				continue
			}
			tried = true
			answer, failed := p.attempt(ctx, d, slot, reservation, deadline)
			waited += failed.took
			if answer != nil {
				answer.Attempts, answer.Waited = made+1, waited
				return answer, nil
			}
			switch {
			case failed.refusal != nil:
				return nil, failed.refusal
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case !failed.again:
				return nil, failed.err
			}
			if !failed.unsent {
				made++
			}
			last, out[i] = failed.err, failed.leave
		}
		if !tried {
			break
		}
	}
	return nil, last
}

// rest waits before deployments are tried again.
func rest(ctx context.Context, round int, asked time.Duration, deadline time.Time) error {
	pause := againBase << min(round-1, 4)
	pause += rand.N(pause) //nolint:gosec // it spreads load, and guards nothing
	pause, left := min(max(pause, asked), againMax), time.Until(deadline)
	timer := time.NewTimer(min(pause, left))
	defer timer.Stop()
	select {
	case <-timer.C:
		if left <= pause {
			return tooLong()
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
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

// errUntried tells the breaker that nothing was learnt of the deployment.
var errUntried = errors.New("the deployment was not tried to the end")

// leave gives the leave back. failed is told to the breaker; see [errUntried].
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
	unsent  bool  // this one cannot be asked for it at all
	took    time.Duration
}

// attempt makes one attempt, whose slot it gives back.
func (p *Plan) attempt(ctx context.Context, d *deployment, s slot, reservation Reservation, deadline time.Time) (*Answer, result) {
	r := &run{
		plan: p, deployment: d, slot: s, began: time.Now(), deadline: deadline,
		upstreamModel: d.upstreamName(p.request.Model, p.Model),
	}
	r.model = d.priced(d.provider.Provider, r.upstreamModel)
	if refused := r.prepare(); refused != nil {
		s.leave(errUntried)
		// What this one cannot do, another may.
		return nil, result{err: refused, again: len(p.candidates) > 1, leave: true, unsent: true}
	}
	book, err := reservation.Dispatch(ctx, r.model.With(p.Extra))
	if err != nil {
		s.leave(errUntried)
		return nil, result{refusal: err}
	}
	r.book = book
	answer, failure := r.send(ctx)
	took := time.Since(r.began)
	if answer != nil {
		return answer, result{took: took}
	}
	r.end(failure)
	if failure.outcome != ClientGone {
		// What an upstream says of a request may quote it.
		p.router.logger.DebugContext(ctx, "attempt of an AI call ended", slog.String("deployment", d.name), slog.String("outcome", string(failure.outcome)), slog.Int("status", failure.err.Status))
	}
	return nil, result{err: failure.err, again: failure.again, leave: failure.leave, took: took}
}

func orDefault(d, byDefault time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return byDefault
}
