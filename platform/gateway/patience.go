package gateway

import (
	"context"
	"sync"
	"time"
)

// patience bounds waits by one timeout. A timer for each of many thousand waits a second
// costs more than what they wait with, so waits that begin at nearly the same time share
// a context: one may last by a sixty-fourth longer than the timeout, and never less.
type patience struct {
	timeout time.Duration

	mu     sync.Mutex
	shared context.Context
	until  time.Time // when to make the next one
}

// context returns what a wait that begins now ends with.
func (p *patience) context(now time.Time) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shared == nil || now.After(p.until) {
		more := p.timeout / 64
		p.until = now.Add(more)
		ctx, cancel := context.WithDeadline(context.Background(), p.until.Add(p.timeout))
		context.AfterFunc(ctx, cancel) // nobody ends it before
		p.shared = ctx
	}
	return p.shared
}
