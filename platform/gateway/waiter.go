package gateway

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// waiters are the requests that wait for an operation to change. What is asked of
// Operations for them is asked in batches: whoever is woken while one is read is in
// the next. Make it with newWaiters. Safe for concurrent use.
type waiters struct {
	read    func(ctx context.Context, seen []Seen) ([]Operation, error)
	timeout time.Duration
	every   time.Duration // how often followed operations are looked at
	logger  *slog.Logger

	mu      sync.Mutex
	waiting map[string]*awaited
	count   int
	max     int
	woken   map[string]struct{} // to be read
	reading bool                // by a goroutine that ends when nobody is woken
	failing bool                // the last read failed, which was told
	follows int                 // requests that want every change
	polling bool                // by a goroutine that ends when nobody follows
}

// awaited is an operation that somebody waits for.
type awaited struct {
	waiters  []*waiter
	revision int64 // that all of them have seen; 0 when one has not
}

// waiter is one request that waits.
type waiter struct {
	// seen holds the operation as last read, and drops an older one that nobody has
	// taken.
	seen    chan Operation
	id      string
	enough  func(*Operation) bool // whether a Partial operation is of use
	follows bool
	all     *waiters
}

func newWaiters(config *Config, read func(ctx context.Context, seen []Seen) ([]Operation, error)) *waiters {
	return &waiters{
		read: read, timeout: config.LookupTimeout, every: config.FollowInterval, logger: config.Logger,
		waiting: make(map[string]*awaited), woken: make(map[string]struct{}), max: config.WaitsMax,
	}
}

// register returns a waiter for the operation, or nil when too many wait
// already. enough tells which operations are of use as an outcome event has them;
// nil for none. Register before the operation can change, or the change is missed.
// Leave it in the end.
func (ws *waiters) register(id string, enough func(*Operation) bool) *waiter {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.count-ws.follows >= ws.max {
		return nil
	}
	return ws.add(&waiter{id: id, enough: enough})
}

// follow is register for a request that wants every change, of which there may be
// as many as max.
func (ws *waiters) follow(id string, most int) *waiter {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.follows >= most {
		return nil
	}
	ws.follows++
	w := ws.add(&waiter{id: id, follows: true})
	if !ws.polling {
		ws.polling = true
		go ws.poll()
	}
	return w
}

func (ws *waiters) add(w *waiter) *waiter {
	w.seen, w.all = make(chan Operation, 1), ws
	a := ws.waiting[w.id]
	if a == nil {
		a = &awaited{}
		ws.waiting[w.id] = a
	}
	a.waiters, a.revision = append(a.waiters, w), 0
	ws.count++
	return w
}

// poll looks at all followed operations in one batch, until nobody follows.
func (ws *waiters) poll() {
	ticker := time.NewTicker(ws.every)
	defer ticker.Stop()
	for range ticker.C {
		ws.mu.Lock()
		if ws.follows == 0 {
			ws.polling = false
			ws.mu.Unlock()
			return
		}
		for id, a := range ws.waiting {
			for _, w := range a.waiters {
				if w.follows {
					ws.woken[id] = struct{}{}
					break
				}
			}
		}
		ws.start()
		ws.mu.Unlock()
	}
}

// wake has operations read for whoever waits for them.
func (ws *waiters) wake(ids ...string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, id := range ids {
		if ws.waiting[id] != nil {
			ws.woken[id] = struct{}{}
		}
	}
	ws.start()
}

// tell gives an operation as an outcome event has it to those for whom that is
// enough. The next wake reads it for the others.
func (ws *waiters) tell(op *Operation) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	a := ws.waiting[op.ID]
	if a == nil {
		return
	}
	for _, w := range a.waiters {
		if w.enough != nil && w.enough(op) {
			w.give(*op)
		} else {
			ws.woken[op.ID] = struct{}{}
		}
	}
}

// has reports whether anybody waits for the operation.
func (ws *waiters) has(id string) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.waiting[id] != nil
}

// following returns how many requests want every change.
func (ws *waiters) following() float64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return float64(ws.follows)
}

// batchMax bounds one read.
const batchMax = 1000

func (ws *waiters) start() {
	if len(ws.woken) > 0 && !ws.reading {
		ws.reading = true
		go ws.readAll()
	}
}

// readAll reads the operations of those who were woken until there are none.
func (ws *waiters) readAll() {
	for {
		ws.mu.Lock()
		seen := make([]Seen, 0, min(len(ws.woken), batchMax))
		for id := range ws.woken {
			if len(seen) == batchMax {
				break
			}
			delete(ws.woken, id)
			if a := ws.waiting[id]; a != nil {
				seen = append(seen, Seen{id, a.revision})
			}
		}
		if len(seen) == 0 {
			ws.reading = false
			ws.mu.Unlock()
			return
		}
		ws.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), ws.timeout)
		changed, err := ws.read(ctx, seen)
		cancel()
		if err != nil { // they are woken again by their own clock
			if !ws.failing { // only this goroutine uses it
				ws.logger.Warn("operations cannot be read while requests wait for them", slog.Int("operations", len(seen)), slog.Any("error", err))
			}
			ws.failing = true
			continue
		}
		ws.failing = false
		ws.mu.Lock()
		for i := range changed {
			op := &changed[i]
			if a := ws.waiting[op.ID]; a != nil {
				a.revision = op.Revision
				for _, w := range a.waiters {
					w.give(*op)
				}
			}
		}
		ws.mu.Unlock()
	}
}

// give hands over an operation, in place of an older one that was not taken. The
// caller holds the lock.
func (w *waiter) give(op Operation) {
	select {
	case <-w.seen:
	default:
	}
	w.seen <- op
}

// leave ends the waiter; nil is allowed.
func (w *waiter) leave() {
	if w == nil {
		return
	}
	ws := w.all
	ws.mu.Lock()
	defer ws.mu.Unlock()
	a := ws.waiting[w.id]
	for i, other := range a.waiters {
		if other != w {
			continue
		}
		last := len(a.waiters) - 1
		a.waiters[i], a.waiters[last] = a.waiters[last], nil
		a.waiters = a.waiters[:last]
		ws.count--
		if w.follows {
			ws.follows--
		}
		break
	}
	if len(a.waiters) == 0 {
		delete(ws.waiting, w.id)
	}
}
