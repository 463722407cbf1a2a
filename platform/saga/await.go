package saga

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
)

// Await waits for a signal: something that happens outside, such as a person's
// decision. A signal that comes before it is awaited is kept until it is.
type Await[S any] struct {
	// Name as of [Step].
	Name string
	// For is what to wait for; make it with [Signal].
	For Signalled[S]
	// Timeout is required: nothing waits for ever. The saga then runs OnTimeout, or
	// compensates with TimeoutCode when that is nil.
	Timeout     time.Duration
	TimeoutCode events.Code // "timeout" by default
	OnTimeout   Node[S]
}

// Signalled is a signal and what becomes of it. Make it with [Signal].
type Signalled[S any] struct {
	fact      events.Descriptor
	fold      func(state any, payload []byte) error
	correlate func(payload []byte) (sagaID string, err error)
}

// Signal waits for a fact of that contract that is sent to the saga: on the topic
// [events.Signals], with the saga's id as its correlation id. fold takes its payload into the state; it
// must be pure and may be nil.
func Signal[S, T any](fact events.Fact[T], fold func(state *S, payload T)) Signalled[S] {
	signal := Signalled[S]{fact: fact.Describe()}
	if fold != nil {
		signal.fold = func(state any, data []byte) error {
			var payload T
			if err := json.Unmarshal(data, &payload); err != nil {
				return fmt.Errorf("decode %s: %w", fact.Type(), err)
			}
			fold(state.(*S), payload)
			return nil
		}
	}
	return signal
}

// Event waits for a fact that others publish for their own reasons, on the topic
// of its contract: correlate tells from its payload which saga it belongs to, by
// that saga's id. Facts of other sagas, or of none, are passed over.
func Event[S, T any](fact events.Fact[T], correlate func(payload T) (sagaID string), fold func(state *S, payload T)) Signalled[S] {
	signal := Signal(fact, fold)
	if correlate != nil {
		signal.correlate = func(data []byte) (string, error) {
			var payload T
			if err := json.Unmarshal(data, &payload); err != nil {
				return "", fmt.Errorf("decode %s: %w", fact.Type(), err)
			}
			return correlate(payload), nil
		}
	}
	return signal
}

func (a Await[S]) compile(c typed[S]) *node {
	n := c.named(kindAwait, a.Name)
	n.do, n.fold, n.correlate = a.For.fact, a.For.fold, a.For.correlate
	if a.For.fact.Type == "" {
		c.fail("await %q waits for nothing: set For to saga.Signal(fact, fold)", a.Name)
	}
	if a.Timeout <= 0 {
		c.fail("await %q has no timeout and could wait for ever: set Timeout", a.Name)
	}
	n.timeout, n.timeoutCode = a.Timeout, or(a.TimeoutCode, "timeout")
	if a.OnTimeout != nil {
		n.add(compileNode(c, a.OnTimeout))
	}
	return n
}

// Sleep lets time pass: For that long, or Until that moment, whichever is set. A
// moment that has passed lets the saga go on at once.
type Sleep[S any] struct {
	// Name as of [Step].
	Name string
	For  time.Duration
	// Until must be pure.
	Until func(state S) time.Time
}

func (s Sleep[S]) compile(c typed[S]) *node {
	n := c.named(kindSleep, s.Name)
	n.timeout = s.For
	if s.Until != nil {
		n.until = func(state any) time.Time { return s.Until(*state.(*S)) }
	}
	if (s.For > 0) == (s.Until != nil) {
		c.fail("sleep %q: set either For, to a positive duration, or Until", s.Name)
	}
	return n
}
