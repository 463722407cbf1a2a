package follow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// idleAfter is how long the own reader of a follower may bring nothing before it is
// asked whether there is anything to come.
const idleAfter = 100 * time.Millisecond

// catchUp returns what the follower's own reader brings, until it is as far as the
// feed has kept events, and has joined it. It may return nothing.
func (f *Follower) catchUp(ctx context.Context, limit int) ([]Item, error) {
	if err := f.open(ctx); err != nil {
		return nil, err
	}
	short, cancel := context.WithTimeout(ctx, idleAfter)
	batch, err := f.reader.Next(short, limit)
	cancel()
	idle := false
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		idle = true
	case errors.Is(err, broker.ErrNotFound):
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	default:
		return nil, err
	}
	if idle || time.Since(f.checked) > f.hub.config.CheckInterval {
		// Before what was read is passed: had it been deleted, it would not have come.
		f.checked = time.Now()
		lifted, err := f.hub.settle(ctx, f.feed.topic, f.own)
		if err != nil {
			return nil, err
		}
		f.own = lifted
	}
	items := make([]Item, 0, len(batch))
	for i := range batch {
		d := &batch[i]
		f.own.pass(d.Partition, d.Offset)
		if d.Malformed == nil && f.filter.Matches(&d.Event) {
			items = append(items, Item{JSON: Encode(&d.Event), Position: f.feed.signer.text(f.own)})
		}
	}
	f.text = f.feed.signer.text(f.own)
	joined, err := f.join(f.own)
	if joined {
		f.rest()
	}
	if len(items) > 0 {
		return items, nil // an error comes again
	}
	return nil, err
}

// open waits for a place among those who catch up and opens the follower's reader.
func (f *Follower) open(ctx context.Context) error {
	if f.reader != nil {
		return nil
	}
	if !f.holds {
		select {
		case f.hub.catching <- struct{}{}:
			f.holds = true
		case <-f.feed.ctx.Done():
			_, err := f.join(f.own) // which tells why
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	reader, err := f.hub.source.Read(ctx, f.feed.topic, f.own.starts(f.hub.source.Partitions()))
	if err != nil {
		return err
	}
	f.reader = reader
	return nil
}

// rest gives back what catching up has taken.
func (f *Follower) rest() {
	if f.reader != nil {
		f.reader.Close()
		f.reader = nil
	}
	if f.holds {
		f.holds = false
		<-f.hub.catching
	}
}
