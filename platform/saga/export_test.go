package saga

import (
	"context"
	"time"
)

// WholeEntry returns the history entry that stands for all before it.
func WholeEntry(in Instance) []byte {
	entry, err := encodeEntry(&Instance{}, &in, Cause{Kind: "test"}, in.UpdatedAt)
	if err != nil {
		panic(err)
	}
	return entry
}

// EncodeEntry and ApplyEntry are the history's.
func EncodeEntry(before, after *Instance, cause Cause, at time.Time) ([]byte, error) {
	return encodeEntry(before, after, cause, at)
}

func ApplyEntry(in *Instance, entry []byte) (at time.Time, cause Cause, err error) {
	return applyEntry(in, entry)
}

// Fire is one round of RunTimers.
func (e *Engine) Fire(ctx context.Context) (int, error) { return e.fire(ctx) }

// IsConflict is what the timer loop tries again.
func IsConflict(err error) bool { return isConflict(err) }

// ForgetClock has the engine ask the database for the time, which a test has moved.
func (e *Engine) ForgetClock() {
	e.clock.mu.Lock()
	defer e.clock.mu.Unlock()
	e.clock.read = time.Time{}
}
