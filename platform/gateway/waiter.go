package gateway

import "sync"

// waiters are the requests that wait for an operation to change. The zero
// value is not ready; make one with newWaiters. Safe for concurrent use.
type waiters struct {
	mu      sync.Mutex
	waiting map[string][]*waiter
	count   int
	max     int
}

// waiter is one request that waits.
type waiter struct {
	// woken holds at most one wake-up: a second one says nothing new.
	woken chan struct{}
	id    string
	all   *waiters
}

func newWaiters(most int) *waiters { return &waiters{waiting: make(map[string][]*waiter), max: most} }

// register returns a waiter for the operation, or nil when too many wait
// already. Register before the operation can change, or the change is missed.
// Leave it in the end.
func (ws *waiters) register(id string) *waiter {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.count >= ws.max {
		return nil
	}
	w := &waiter{woken: make(chan struct{}, 1), id: id, all: ws}
	ws.waiting[id] = append(ws.waiting[id], w)
	ws.count++
	return w
}

// notify wakes whoever waits for the operation.
func (ws *waiters) notify(id string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.waiting[id] {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

// leave ends the waiter; nil is allowed.
func (w *waiter) leave() {
	if w == nil {
		return
	}
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	others := w.all.waiting[w.id]
	for i, other := range others {
		if other != w {
			continue
		}
		others[i] = others[len(others)-1]
		others[len(others)-1] = nil
		others = others[:len(others)-1]
		w.all.count--
		break
	}
	if len(others) == 0 {
		delete(w.all.waiting, w.id)
	} else {
		w.all.waiting[w.id] = others
	}
}
