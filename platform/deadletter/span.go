package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Topics is what a replay asks of a broker; every [broker.Broker] is one.
type Topics interface {
	Partitions() int
	Since(ctx context.Context, topic events.Topic, at time.Time) (map[int]broker.Start, error)
	Read(ctx context.Context, topic events.Topic, from map[int]broker.Start) (broker.Reader, error)
	Backlog(ctx context.Context, topic events.Topic, from map[int]broker.Start) (uint64, error)
	Lookup(ctx context.Context, topic events.Topic, partition int, offset uint64) (broker.Delivery, error)
}

// span is a part of a topic: in each partition what lies after from, up to and with
// through.
type span struct {
	topic         events.Topic
	from, through map[int]broker.Start
}

// quiet is how long a read waits for the next message before it asks the broker what
// is missing, and quietMax how often in a row it asks.
const (
	quiet    = time.Second
	quietMax = 10
)

// read hands the messages of the span to visit, those of a partition in order. That a
// partition has come to its end is known by a later message of it, or by the broker's
// count: messages may have expired, so the last one need not be there.
func (s *span) read(ctx context.Context, topics Topics, visit func(*broker.Delivery) error) error {
	open := make(map[int]broker.Start) // where it stands in partitions that are not at their end
	for partition, start := range s.from {
		if start.After < s.through[partition].After {
			open[partition] = start
		}
	}
	left, err := s.left(ctx, topics, open)
	if err != nil || left == 0 {
		return err
	}
	reader, err := topics.Read(ctx, s.topic, open)
	if err != nil {
		return fmt.Errorf("replay of %s: %w", s.topic, err)
	}
	defer reader.Close()
	for idle := 0; idle < quietMax; idle++ {
		got, err := s.some(ctx, reader, open, left, visit)
		if err != nil || got >= left {
			return err
		}
		if left, err = s.left(ctx, topics, open); err != nil || left == 0 {
			return err
		}
		if got > 0 {
			idle = 0
		}
	}
	return fmt.Errorf("replay of %s: %w: %d messages of the range could not be read", s.topic, broker.ErrUnavailable, left)
}

// left closes the partitions of which nothing is to come, and returns how many
// messages of the others still are, or more, when some are published while it asks.
func (s *span) left(ctx context.Context, topics Topics, open map[int]broker.Start) (left uint64, err error) {
	for partition, at := range open {
		// This first, so that what comes in between adds to what is left.
		after, err := topics.Backlog(ctx, s.topic, map[int]broker.Start{partition: s.through[partition]})
		if err != nil {
			return 0, fmt.Errorf("replay of %s: %w", s.topic, err)
		}
		all, err := topics.Backlog(ctx, s.topic, map[int]broker.Start{partition: at})
		if err != nil {
			return 0, fmt.Errorf("replay of %s: %w", s.topic, err)
		}
		if all <= after {
			delete(open, partition)
			continue
		}
		left += all - after
	}
	return left, nil
}

// some reads until so many messages of the span have come, all partitions are at
// their end, or none of the span has come for a while.
func (s *span) some(ctx context.Context, reader broker.Reader, open map[int]broker.Start, limit uint64, visit func(*broker.Delivery) error) (got uint64, err error) {
	for patience := time.Now().Add(quiet); got < limit && len(open) > 0; {
		wait, cancel := context.WithDeadline(ctx, patience)
		deliveries, err := reader.Next(wait, 256)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return got, nil
		} else if err != nil {
			return got, fmt.Errorf("replay of %s: %w", s.topic, err)
		}
		for i := range deliveries {
			d := &deliveries[i]
			through := s.through[d.Partition].After
			if d.Offset >= through {
				delete(open, d.Partition)
			} else if _, more := open[d.Partition]; more {
				open[d.Partition] = broker.Start{After: d.Offset}
			}
			if d.Offset > through {
				continue
			}
			if err := visit(d); err != nil {
				return got, err
			}
			got++
			patience = time.Now().Add(quiet)
		}
		if time.Now().After(patience) { // others come, all of them later ones
			return got, nil
		}
	}
	return got, nil
}
