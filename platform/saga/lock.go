package saga

import (
	"math"
	"time"

	"github.com/countermand/countermand/events"
)

// Lock waits until the saga holds a lock, and holds it until the saga ends. It
// keeps sagas out of each other's way while their data is half changed, the way a
// semantic lock does: sagas get it in the order in which they asked.
type Lock[S any] struct {
	// Name as of [Step].
	Name string
	// Key is what to lock, such as "customer/ada"; the same key of another
	// definition is the same lock. It must be pure, of 1 to 200 bytes.
	Key func(state S) string
	// Slots is how many sagas may hold it at the same time: 1 by default.
	Slots int
	// Timeout is how long to wait for it, and required. The saga then compensates
	// with TimeoutCode.
	Timeout     time.Duration
	TimeoutCode events.Code // "timeout" by default
	// TTL takes the lock away from a saga that holds it for that long: 0 for never.
	// A saga that has not passed its pivot compensates with the code lock_expired.
	TTL time.Duration
}

// Limit bounds how many sagas of a definition run, and how fast they begin. Those
// beyond it wait their turn at a first step of the name admission.
type Limit struct {
	// Running is how many may run at the same time: 0 for any number.
	Running int
	// PerSecond is how many may begin per second, on average and as a burst of one
	// second's worth: 0 for any number.
	PerSecond float64
	// Timeout is how long one may wait before it ends with the code
	// admission_timeout: 1 h by default.
	Timeout time.Duration
}

// admission is the name of the step that a limit adds.
const admission = "admission"

// claim is what a saga wants of a lock.
type claim struct {
	key   string
	slots int
	rate  float64       // grants per second; 0 for any number
	ttl   time.Duration // 0 for ever
}

// LockInput tells that a lock was given to the saga, or taken away from it.
type LockInput struct {
	Step string
	Lost bool
}

func (l Lock[S]) compile(c typed[S]) *node {
	n := c.named(kindLock, l.Name)
	n.timeout, n.timeoutCode = l.Timeout, or(l.TimeoutCode, "timeout")
	if l.Timeout <= 0 {
		c.fail("lock %q has no timeout and could wait for ever: set Timeout", l.Name)
	}
	if l.Slots < 0 || l.TTL < 0 {
		c.fail("lock %q: Slots and TTL must not be negative", l.Name)
	}
	if l.Key == nil {
		c.fail("lock %q has no key: set Key", l.Name)
		return n
	}
	n.claim = func(state any) claim {
		return claim{key: "key/" + l.Key(*state.(*S)), slots: or(l.Slots, 1), ttl: l.TTL}
	}
	return n
}

// compile returns the node that a limit puts before the flow, nil for none.
func (l Limit) compile(c *compiler) *node {
	if l.Running < 0 || l.PerSecond < 0 || l.Timeout < 0 {
		c.fail("Limit: its numbers must not be negative")
	}
	if l.Running == 0 && l.PerSecond == 0 {
		return nil
	}
	n := c.named(kindLock, admission)
	n.timeout, n.timeoutCode = or(l.Timeout, time.Hour), "admission_timeout"
	want := claim{key: "saga/" + c.saga, slots: or(l.Running, math.MaxInt32), rate: l.PerSecond}
	n.claim = func(any) claim { return want }
	return n
}

// runLock asks for a lock, once.
func (d *decision) runLock(n *node, at *scope) (ended bool) {
	path := at.path(n)
	record := d.record(path)
	if record != nil {
		return record.Status == StepDone
	}
	var want claim
	err := protect(func() error {
		state, err := d.state(at)
		if err == nil {
			want = n.claim(state)
		}
		if size := len(want.key); err == nil && (size < len("key/")+1 || size > len("key/")+200) {
			return refuse("invalid_data", "lock %s: a key must have 1 to 200 bytes", n.name)
		}
		return err
	})
	if err != nil {
		d.fail(path, err)
		return false
	}
	record = d.enter(n, at, StepRunning)
	record.Do.Deadline = d.now.Add(n.timeout)
	d.effects = append(d.effects, Effect{Step: path, claim: &want})
	d.recover(path)
	return false
}

// lock takes in that a lock was given or taken away.
func (d *decision) lock(input LockInput) {
	record := d.record(input.Step)
	if record == nil || d.Status.Final() || record.Kind != string(kindLock) {
		return
	}
	switch {
	case input.Lost:
		if d.Backward || d.Pivoted || record.Status != StepDone {
			return
		}
		d.applied = true
		d.turn(input.Step, "lock_expired", "it held its lock for too long")
	case record.Status == StepRunning && !d.Backward:
		d.applied = true
		record.Do.settled(nil)
		d.done(record)
	}
}
