package webhook

import (
	"context"
	"sync"
)

// slots bounds the requests of a process. A tenant has at most a quarter of them, so that
// its slow sinks hold up nobody else.
type slots struct {
	all   chan struct{}
	share int

	mu      sync.Mutex
	tenants map[string]*tenantSlots
}

type tenantSlots struct {
	free  chan struct{}
	users int // who hold or wait for one
}

func newSlots(most int) *slots {
	return &slots{all: make(chan struct{}, most), share: max(1, most/4), tenants: make(map[string]*tenantSlots)}
}

// acquire waits for a slot; false when ctx ends first.
func (s *slots) acquire(ctx context.Context, tenant string) bool {
	s.mu.Lock()
	t := s.tenants[tenant]
	if t == nil {
		t = &tenantSlots{free: make(chan struct{}, s.share)}
		s.tenants[tenant] = t
	}
	t.users++
	s.mu.Unlock()
	select {
	case t.free <- struct{}{}:
	case <-ctx.Done():
		s.leave(tenant)
		return false
	}
	select {
	case s.all <- struct{}{}:
		return true
	case <-ctx.Done():
		<-t.free
		s.leave(tenant)
		return false
	}
}

func (s *slots) release(tenant string) {
	<-s.all
	s.mu.Lock()
	t := s.tenants[tenant]
	s.mu.Unlock()
	<-t.free
	s.leave(tenant)
}

// leave forgets a tenant of whom nobody holds or waits for a slot.
func (s *slots) leave(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[tenant]
	if t.users--; t.users == 0 {
		delete(s.tenants, tenant)
	}
}
