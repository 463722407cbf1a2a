package follow

import (
	"context"
	"slices"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/filter"
)

// Item is an event for a follower.
type Item struct {
	// JSON is the event in the JSON format of CloudEvents, in one line. It is shared:
	// do not change it.
	JSON []byte
	// Position is where to go on after the event.
	Position string
}

// Follower is one who follows a topic. It is used by one goroutine at a time.
type Follower struct {
	hub    *Hub
	feed   *feed
	filter *filter.Filter
	wake   chan struct{}

	// own is how far the follower is by itself: while it catches up and until the feed
	// is as far. Nil when the feed's positions are its own.
	own     position
	reader  broker.Reader // of a follower that catches up
	holds   bool          // a place among those who catch up
	checked time.Time     // when own was last compared with the bounds
	pending []*entry      // kept by the feed when it was joined

	group  *group // nil: it is not at the tip
	cursor uint64 // of the group
	text   string // position after what was given
	closed bool
}

// begin finds where to begin. The follower's feed is kept alive by the caller.
func (f *Follower) begin(ctx context.Context, start Start) error {
	var after position
	var err error
	switch {
	case start.After != "":
		after, err = f.feed.signer.read(start.After, f.hub.width)
	case start.Earliest:
		var oldest map[int]broker.Start
		oldest, _, err = f.hub.source.Bounds(ctx, f.feed.topic)
		after = f.hub.position(oldest)
	case !start.Since.IsZero():
		var from map[int]broker.Start
		from, err = f.hub.source.Since(ctx, f.feed.topic, start.Since)
		after = f.hub.position(from)
	}
	if err != nil {
		return err
	}
	joined, err := f.join(after)
	if !joined && err == nil {
		joined, err = f.reach(ctx, after)
	}
	if joined || err != nil {
		return err
	}
	if start.After != "" { // the others are what the broker has
		if after, err = f.hub.settle(ctx, f.feed.topic, after); err != nil {
			return err
		}
	}
	f.own, f.checked = after, time.Now()
	f.text = f.feed.signer.text(f.own)
	return nil
}

// reach is join for a position before what the feed keeps.
func (f *Follower) reach(ctx context.Context, after position) (bool, error) {
	f.feed.asking.Lock()
	defer f.feed.asking.Unlock()
	if joined, err := f.join(after); joined || err != nil { // another has asked meanwhile
		return joined, err
	}
	if err := f.feed.reach(ctx, after); err != nil {
		return false, err
	}
	return f.join(after)
}

// join puts the follower at the tip, if the feed still keeps what comes after the
// position.
func (f *Follower) join(after position) (bool, error) {
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	if f.feed.finished {
		return false, f.feed.reason
	}
	pending, ok := f.feed.join(f, after)
	if !ok {
		return false, nil
	}
	f.pending = pending
	if after != nil && (len(pending) > 0 || !f.feed.at.reaches(after)) {
		f.own = slices.Clone(after)
		f.text = f.feed.signer.text(f.own)
	} else {
		f.own, f.text = nil, f.feed.text
	}
	return true, nil
}

// Position returns where to go on after everything that was given, and after what was
// passed over because the filter does not hold for it.
func (f *Follower) Position() string {
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	if f.group != nil && f.own == nil && f.cursor == f.group.dropped+uint64(len(f.group.queue)) {
		f.text = f.feed.text
	}
	return f.text
}

// Next returns the next events, at most limit and at least one. It blocks until there
// is one or ctx ends, when it returns the error of ctx and may be called again. Other
// errors are final: ErrOverrun, ErrGone, ErrClosed, or what the broker fails with.
func (f *Follower) Next(ctx context.Context, limit int) ([]Item, error) {
	for {
		atTip := f.group != nil
		items, err := f.take(ctx, limit)
		if len(items) > 0 || err != nil {
			return items, err
		}
		if !atTip {
			continue // it caught up, which waits by itself
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Ready is Next for one who will not wait: without an error and without events the
// follower has all there is.
func (f *Follower) Ready(ctx context.Context, limit int) ([]Item, error) {
	for {
		atTip := f.group != nil
		items, err := f.take(ctx, limit)
		if len(items) > 0 || err != nil || atTip {
			return items, err
		}
	}
}

// take returns what there is: from the kept events, or from the follower's own reader.
func (f *Follower) take(ctx context.Context, limit int) ([]Item, error) {
	if f.group == nil {
		return f.catchUp(ctx, limit)
	}
	for {
		taken, caught, err := f.kept(limit)
		if len(taken) == 0 || err != nil {
			return nil, err
		}
		items := make([]Item, 0, len(taken))
		for _, e := range taken {
			item := Item{JSON: e.json(), Position: e.text}
			if f.own != nil {
				if f.own.passed(e.partition, e.offset) {
					continue // its own reader had brought it
				}
				f.own.pass(e.partition, e.offset)
				item.Position = f.feed.signer.text(f.own)
			}
			f.text = item.Position
			items = append(items, item)
		}
		if caught {
			f.own = nil
		}
		if len(items) > 0 {
			return items, nil
		}
	}
}

// kept takes events that the feed has kept. It reports whether the feed was as far as
// the follower then, so that after these events its positions are the follower's own.
func (f *Follower) kept(limit int) (taken []*entry, caught bool, err error) {
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	if n := min(limit, len(f.pending)); n > 0 {
		taken, f.pending = f.pending[:n], f.pending[n:]
	} else {
		if f.cursor < f.group.dropped {
			return nil, false, ErrOverrun
		}
		queue := f.group.queue[f.cursor-f.group.dropped:]
		taken = slices.Clone(queue[:min(limit, len(queue))])
		f.cursor += uint64(len(taken))
		caught = f.own != nil && len(taken) == len(queue) && f.feed.at.reaches(f.own)
	}
	if len(taken) == 0 && f.feed.finished {
		return nil, false, f.feed.reason
	}
	if caught && len(taken) == 0 {
		f.own = nil
	}
	return taken, caught, nil
}

// Close ends the follower. It may be called again.
func (f *Follower) Close() {
	if f.closed {
		return
	}
	f.closed = true
	f.rest()
	f.feed.part(f)
	f.feed.leave()
}
