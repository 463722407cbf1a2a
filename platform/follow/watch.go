package follow

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// watch looks at the bounds of the topic now and then, until the feed ends.
func (f *feed) watch() {
	ticker := time.NewTicker(f.hub.config.CheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-f.ctx.Done():
			return
		}
		f.hub.retire(f)
		f.check()
	}
}

// check lifts the position of a topic in which nothing happens, so that it stays
// younger than what retention deletes, and finds out when events were deleted before
// they were read.
func (f *feed) check() {
	f.mu.Lock()
	at := slices.Clone(f.at)
	f.mu.Unlock()
	lifted, err := f.hub.settle(f.ctx, f.topic, at)
	switch {
	case errors.Is(err, ErrGone):
		f.hub.config.Logger.Error("events were deleted before their followers had them; keep them longer", "topic", f.topic)
		f.end(err)
		return
	case err != nil:
		if f.ctx.Err() == nil {
			f.hub.config.Logger.Warn("a followed topic cannot be looked at", "topic", f.topic, "error", err)
		}
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at.lift(lifted)
	f.text = f.signer.text(f.at)
}

// settle returns a position moved past what is known to be no event of the topic: to
// the tip, when there is nothing in between. It fails with ErrGone when events after
// the position may have been deleted.
func (h *Hub) settle(ctx context.Context, topic events.Topic, at position) (position, error) {
	oldest, newest, err := h.source.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	if tip := h.position(newest); !at.reaches(tip) {
		backlog, err := h.source.Backlog(ctx, topic, at.starts(h.source.Partitions()))
		if err != nil {
			return nil, err
		}
		if backlog == 0 {
			at.lift(tip)
		}
	}
	if !at.reaches(h.position(oldest)) {
		return nil, ErrGone
	}
	return at, nil
}

// reach makes the feed's events reach back to a position, when the broker says that
// there is no event in between. Many followers come with the position of a topic in
// which nothing happened since, when a process was started anew.
func (f *feed) reach(ctx context.Context, back position) error {
	f.mu.Lock()
	base := slices.Clone(f.base)
	f.mu.Unlock()
	partitions := f.hub.source.Partitions()
	// In this order, what comes in between makes them differ and never seem equal.
	beyond, err := f.hub.source.Backlog(ctx, f.topic, base.starts(partitions))
	if err != nil {
		return err
	}
	behind, err := f.hub.source.Backlog(ctx, f.topic, back.starts(partitions))
	if err != nil || behind != beyond {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.base, base) {
		return nil // it has forgotten events meanwhile
	}
	for i := range back {
		f.base[i] = min(f.base[i], back[i])
	}
	return nil
}

var _ Source = broker.Broker(nil)
