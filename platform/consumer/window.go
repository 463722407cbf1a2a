package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// How the inbox is divided. Each part costs a lookup per command, so there are few: at
// most the open one and three before it. What is dropped is older than the window by at least
// windowSlack, because age is told by other clocks than the database's.
const (
	windowParts = 2
	windowSlack = time.Hour
	retainEvery = time.Minute
)

// errStale is wrapped by the story of an event that the inbox may have forgotten.
var errStale = errors.New("older than the inbox remembers")

// RunRetention keeps the inbox of the database within [CommandsConfig.Window]
// until ctx ends; it returns nil then. Without a window it does nothing. One of the
// processes that run it does the work.
func (c *Commands) RunRetention(ctx context.Context) error {
	if c.config.Window == 0 {
		<-ctx.Done()
		return nil
	}
	for {
		dropped, err := c.Retain(ctx)
		if err != nil && ctx.Err() == nil {
			c.config.Logger.WarnContext(ctx, "inbox retention failed", "consumer", c.config.Name, "retry_in", retainEvery, "error", err)
		}
		if dropped > 0 {
			c.config.Logger.InfoContext(ctx, "old inbox entries dropped", "consumer", c.config.Name, "windows", dropped)
		}
		select {
		case <-time.After(min(retainEvery, c.config.Window/windowParts)):
		case <-ctx.Done():
			return nil
		}
	}
}

// Retain does once what RunRetention does, and returns how many parts of the inbox
// it dropped.
func (c *Commands) Retain(ctx context.Context) (dropped int, err error) {
	if c.config.Window == 0 {
		return 0, nil
	}
	if _, err := c.pool.Exec(ctx, "select inbox_open($1)", c.config.Window/windowParts); err != nil {
		return 0, fmt.Errorf("open an inbox window: %w", err)
	}
	for {
		var generation *int
		if err := c.pool.QueryRow(ctx, "select inbox_drop($1)", c.config.Window+windowSlack).Scan(&generation); err != nil {
			return dropped, fmt.Errorf("drop an inbox window: %w", err)
		}
		if generation == nil {
			return dropped, nil
		}
		dropped++
	}
}

// ErrWindowTooShort means that the broker delivers again what the inbox has
// forgotten.
var ErrWindowTooShort = errors.New("inbox window is too short")

// ready implements the check that a feed makes before it reads.
func (c *Commands) ready(ctx context.Context, b broker.Broker, topics []events.Topic) error {
	if c.config.Window == 0 {
		return nil
	}
	for _, topic := range topics {
		kept, err := b.Retention(ctx, topic)
		switch {
		case err != nil:
			return err
		case kept == 0:
			return fmt.Errorf("%w: the broker keeps messages of %s for ever, and consumer %s forgets what it has handled after %s; "+
				"give the topic a retention below that, or let the inbox forget nothing: Window 0, COUNTERMAND_INBOX_WINDOW=forever",
				ErrWindowTooShort, topic, c.config.Name, c.config.Window)
		case kept > c.config.Window:
			return fmt.Errorf("%w: the broker keeps messages of %s for %s, and consumer %s forgets what it has handled after %s; "+
				"make the window longer than %[3]s: Window, COUNTERMAND_INBOX_WINDOW",
				ErrWindowTooShort, topic, kept, c.config.Name, c.config.Window)
		}
	}
	return nil
}

// stale reports that an event which the inbox does not know may be one that it has
// forgotten. Copies have times of their own, so the oldest of what is told counts:
// when the broker stored this copy, when the sender says that it happened, and
// when its id was made, if that says so. A clock that is wrong can make an event
// too old, which sets it aside, but a copy no younger than its oldest time.
func (w *work) stale(d *broker.Delivery) error {
	if w.config.Window == 0 || w.batch.decided() {
		return nil
	}
	oldest, what := d.StoredAt, "was stored"
	for _, other := range []struct {
		at   time.Time
		what string
	}{{d.Event.Time, "happened"}, {idTime(d.Event.ID), "got its id"}} {
		if !other.at.IsZero() && (oldest.IsZero() || other.at.Before(oldest)) {
			oldest, what = other.at, other.what
		}
	}
	if !w.forgotten(oldest) {
		return nil
	}
	return fmt.Errorf("%w: it %s at %s, and handled events are remembered for %s, so it may have been handled before; redrive it if it was not",
		errStale, what, oldest.UTC().Format(time.RFC3339), w.config.Window)
}

// staleUndo reports the same of the command that e undoes.
func (w *work) staleUndo(e *events.Event) error {
	since, _ := time.Parse(time.RFC3339Nano, e.Extension(events.UndoesTime)) // a sender that tells no time cannot be helped
	if w.config.Window == 0 || !w.forgotten(since) {
		return nil
	}
	return fmt.Errorf("%w: it undoes a command that may have been sent since %s, and handled events are remembered for %s, so it is not known whether "+
		"there is an effect to undo; redrive it to undo it, discard it if there is none",
		errStale, since.UTC().Format(time.RFC3339), w.config.Window)
}

func (w *work) forgotten(at time.Time) bool {
	return !at.IsZero() && time.Since(at) > w.config.Window
}

// idTime returns when an id was made; the zero time when it does not tell.
func idTime(id string) time.Time {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(parsed.Time().UnixTime())
}
