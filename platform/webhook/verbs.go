package webhook

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/postgres"
)

// Pause keeps events for a subscription and sends none, until it is resumed or they are
// older than Config.KeepPaused.
func (s *Store) Pause(ctx context.Context, scope Scope, id, reason string) (Subscription, error) {
	return s.change(ctx, scope, id, AnyRevision, func(_ pgx.Tx, r *row) error {
		if r.state != Active && r.state != Paused {
			return fmt.Errorf("%w: it is %s, and only an active one can be paused", ErrState, r.state)
		}
		r.state, r.reason = Paused, clip(reason, reasonBytesMax)
		return nil
	})
}

// reasonBytesMax bounds what is said about a state.
const reasonBytesMax = 500

// Resume ends a pause, and sends what has waited. One that was disabled asks its sink
// anew. What waits has its full time again.
func (s *Store) Resume(ctx context.Context, scope Scope, id string) (Subscription, error) {
	return s.change(ctx, scope, id, AnyRevision, func(tx pgx.Tx, r *row) error {
		switch r.state {
		case Paused:
			if r.grantedAt == nil {
				r.state = Disabled // so that it is asked
				r.ask(time.Now())
			} else {
				r.state, r.reason = Active, ""
			}
		case Disabled:
			r.ask(time.Now())
		case Active: // its rest ends
		case Pending, deleted:
			return fmt.Errorf("%w: it is pending, and waits for its sink", ErrState)
		}
		r.failures, r.restUntil = 0, nil
		return s.extend(ctx, tx, r)
	})
}

// extend gives what waits for a subscription its full time from now, and lets it go at
// once.
func (s *Store) extend(ctx context.Context, tx pgx.Tx, r *row) error {
	_, err := tx.Exec(ctx, `
		update webhook_delivery set tried = 0, due_at = least(due_at, clock_timestamp()), give_up_at = clock_timestamp() + $2::interval
		where subscription = $1 and state = 'pending'`, r.id, s.config.RetryFor)
	if err != nil {
		return fmt.Errorf("resume deliveries of %s: %w", r.id, err)
	}
	return nil
}

// Approve says in place of the sink that it agrees, for sinks that know nothing of the
// handshake and whose owner an operator knows.
func (s *Store) Approve(ctx context.Context, scope Scope, id string) (Subscription, error) {
	return s.change(ctx, scope, id, AnyRevision, func(tx pgx.Tx, r *row) error {
		if r.state != Pending && r.state != Disabled {
			return fmt.Errorf("%w: it is %s, and needs no approval", ErrState, r.state)
		}
		r.grant("operator", nil)
		return s.extend(ctx, tx, r)
	})
}

// grant makes a subscription active that was waiting.
func (r *row) grant(by string, rate *int) {
	now := time.Now()
	r.grantedAt, r.grantedBy, r.allowedRate = &now, by, rate
	r.askAt, r.asked = nil, 0
	if r.state != Paused {
		r.state, r.reason = Active, ""
	}
}

// Grant is the sink's call to the callback URL that it was given: it agrees to what the
// token stands for, at that rate per minute; 0 means any. A token is good once.
func (s *Store) Grant(ctx context.Context, token string, rate int) error {
	digest := sha256.Sum256([]byte(token))
	var id string
	err := s.pool.QueryRow(ctx, "select id::text from webhook_subscription where callback = $1 and state <> 'deleted'", digest[:]).Scan(&id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case err != nil:
		return fmt.Errorf("look up callback: %w", err)
	}
	_, err = s.change(ctx, Scope{Everyone: true}, id, AnyRevision, func(tx pgx.Tx, r *row) error {
		if r.askAt == nil {
			return ErrNotFound // answered meanwhile
		}
		var allowed *int
		if rate > 0 {
			allowed = &rate
		}
		r.grant("callback", allowed)
		return s.extend(ctx, tx, r)
	})
	return err
}

// Rotate makes a fresh signing secret and returns the subscription with it, never to be
// told again. The one before signs as well, for as long as overlap says, at most 30
// days; less than 0 ends it at once, and 0 means a day.
func (s *Store) Rotate(ctx context.Context, scope Scope, id string, overlap time.Duration) (Subscription, error) {
	switch {
	case overlap == 0:
		overlap = secretOverlap
	case overlap > secretOverlapIn:
		return Subscription{}, InvalidError{{"/overlap", "want at most 720h"}}
	}
	var secrets []Secret
	changed, err := s.change(ctx, scope, id, AnyRevision, func(_ pgx.Tx, r *row) error {
		r.secrets = rotate(r.secrets, time.Now(), overlap)
		secrets = r.secrets
		return nil
	})
	if err == nil {
		changed.Signing[0].Secret = secrets[0].Secret
	}
	return changed, err
}

// TestType is the type of the event that [Store.Test] sends.
const TestType = "countermand.webhook.test.v1"

// Test sends an event made up for the purpose, as any other is sent, and returns its
// delivery.
func (s *Store) Test(ctx context.Context, scope Scope, id string) (Delivery, error) {
	event := events.Event{
		ID: events.NewID(), Source: "/webhooks", Type: TestType, Subject: id, Time: time.Now().UTC(),
		DataContentType: events.ContentTypeJSON, Data: []byte(`{"subscription":"` + id + `"}`),
	}
	var delivery string
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		r, err := s.load(ctx, tx, scope, id, "for share")
		if err != nil {
			return err
		}
		if r.state != Active && r.state != Paused {
			return fmt.Errorf("%w: it is %s, and gets nothing", ErrState, r.state)
		}
		w := &writing{retryFor: s.config.RetryFor}
		w.add(&event, "", r.tenant, match{id: r.id, ordered: r.stated.Config[configOrder] == orderKey})
		delivery = w.deliveries[0].String()
		batch := &pgx.Batch{}
		w.queue(batch)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return Delivery{}, err
	}
	s.woken()
	return s.Delivery(ctx, scope, delivery)
}

// clip shortens a text.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}
