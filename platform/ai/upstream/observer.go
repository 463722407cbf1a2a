package upstream

import (
	"context"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
)

// Observer is told what happens. Each of its functions may be nil and must be safe for
// concurrent use.
type Observer struct {
	// Begin is told of each attempt that is about to leave, and end when it has ended.
	// What the attempt does it does within inner.
	Begin func(ctx context.Context, a Observed) (inner context.Context, end func(Ended))
	// Breaker is told when a deployment is left alone, and when it is used again.
	Breaker func(deployment string, open bool)
}

// Observed is an attempt.
type Observed struct {
	Format     wire.Format
	Deployment string
	Model      ai.Model
}

// Ended is how an attempt has ended.
type Ended struct {
	Outcome Outcome
	Usage   ai.Usage // as far as it is known
	Err     error    // nil when it was answered
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

func (o *Observer) breaker(deployment string, open bool) {
	if o.Breaker != nil {
		o.Breaker(deployment, open)
	}
}

func (o *Observer) begin(ctx context.Context, a Observed) (context.Context, func(Ended)) {
	if o.Begin != nil {
		return o.Begin(ctx, a)
	}
	return ctx, func(Ended) {}
}
