package upstream

import (
	"context"
	"time"

	"github.com/countermand/countermand/platform/ai"
)

// Observer is told what happens. Each of its functions may be nil and must be safe for
// concurrent use.
type Observer struct {
	// Attempt is told of each attempt when it has ended.
	Attempt func(ctx context.Context, a Observed)
	// Breaker is told when a deployment is left alone, and when it is used again.
	Breaker func(deployment string, open bool)
	// Begin starts a span for an attempt; end is called when it is over.
	Begin func(ctx context.Context, deployment string, model ai.Model) (inner context.Context, end func(error))
}

// Observed is an attempt that has ended.
type Observed struct {
	Deployment string
	Provider   string
	Model      ai.Model
	Outcome    Outcome
	Took       time.Duration
}

// Outcome is how an attempt ended.
type Outcome string

// The outcomes.
const (
	Answered   Outcome = "answered"
	NotSent    Outcome = "not_sent"     // no connection
	Refused    Outcome = "refused"      // by the upstream, for what was asked
	Limited    Outcome = "limited"      // by the upstream, for how much was asked
	KeyRefused Outcome = "key_refused"  // by the upstream
	Failed     Outcome = "failed"       // with an error of the upstream's
	TimedOut   Outcome = "timed_out"    // silent for too long
	WasCut     Outcome = "cut"          // in the middle of its answer
	ClientGone Outcome = "client_gone"  // before its end
	BadAnswer  Outcome = "answer_wrong" // it cannot be read
)

func (o *Observer) attempt(ctx context.Context, a Observed) {
	if o.Attempt != nil {
		o.Attempt(ctx, a)
	}
}

func (o *Observer) breaker(deployment string, open bool) {
	if o.Breaker != nil {
		o.Breaker(deployment, open)
	}
}

func (o *Observer) begin(ctx context.Context, deployment string, model ai.Model) (context.Context, func(error)) {
	if o.Begin != nil {
		return o.Begin(ctx, deployment, model)
	}
	return ctx, func(error) {}
}
