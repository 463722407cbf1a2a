package broker

import (
	"context"
	"sync"
)

// sharing lets so many callers at once publish by a publisher that puts their messages
// together.
type sharing struct {
	publisher SharingPublisher
	max       int

	mu      sync.Mutex
	callers int
	empty   chan struct{} // closed when the last caller has left; nil until close
}

func (s *sharing) publish(ctx context.Context, message Message) (Receipt, error) {
	if err := ctx.Err(); err != nil {
		return Receipt{}, err
	}
	if err := s.enter(); err != nil {
		return Receipt{}, err
	}
	defer s.leave()
	receipt := s.publisher.PublishShared(ctx, message)
	return receipt, receipt.Err
}

func (s *sharing) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.empty != nil:
		return errClosed
	case s.callers == s.max:
		return ErrOverloaded
	}
	s.callers++
	return nil
}

func (s *sharing) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.callers--; s.callers == 0 && s.empty != nil {
		close(s.empty)
	}
}

// close takes no callers any more and waits for those there are.
func (s *sharing) close() {
	s.mu.Lock()
	s.empty = make(chan struct{})
	if s.callers == 0 {
		close(s.empty)
	}
	s.mu.Unlock()
	<-s.empty
}
