package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/postgres"
)

// What the verbs refuse; test for them with [errors.Is]. What is wrong with a
// subscription is an [InvalidError].
var (
	// ErrNotFound means that there is no such subscription or delivery, or that it is
	// another tenant's.
	ErrNotFound = errors.New("not found")
	// ErrRevision means that somebody has changed the subscription since.
	ErrRevision = errors.New("the subscription was changed since that revision")
	// ErrTooMany means that the tenant or the client has as many as it may have.
	ErrTooMany = errors.New("there are as many subscriptions as are allowed")
	// ErrState means that the subscription does not stand where the verb needs it.
	ErrState = errors.New("the subscription's state does not allow it")
	// ErrKeyReused means that the Idempotency-Key belongs to another request.
	ErrKeyReused = errors.New("the Idempotency-Key was used for another request")
	// ErrCursor means that a cursor is none that a list has returned.
	ErrCursor = errors.New("cursor is none that a list has returned")
)

// AnyRevision changes a subscription whatever its revision is.
const AnyRevision int64 = 0

// Scope is whose subscriptions a verb may see.
type Scope struct {
	Tenant string
	// Everyone is the scope of operators.
	Everyone bool
}

// Create stores a subscription for a tenant and a client, and returns it with its first
// signing secret, which is never told again. It begins pending: its sink is asked at
// once.
func (s *Store) Create(ctx context.Context, tenant, client string, sub Subscription) (Subscription, error) {
	created, _, err := s.CreateOnce(ctx, tenant, client, Request{}, sub)
	return created, err
}

// Request tells whether two requests to create a subscription are one.
type Request struct {
	Key  string // the client's Idempotency-Key; empty: there is none
	Body []byte // as it was sent
}

func (q Request) digests(tenant, client string) (key, body []byte) {
	if q.Key == "" {
		return nil, nil
	}
	ofKey, ofBody := sha256.Sum256([]byte(tenant+"\x00"+client+"\x00"+q.Key)), sha256.Sum256(q.Body)
	return ofKey[:], ofBody[:]
}

// CreateOnce is Create for a request that may come again. Then it returns the
// subscription as it is now, and that the request is a repeat; the signing secrets are
// told again for a day. The error is [ErrKeyReused] when the key is that of another body,
// and [ErrState] when its subscription was deleted.
func (s *Store) CreateOnce(ctx context.Context, tenant, client string, q Request, sub Subscription) (_ Subscription, repeated bool, err error) {
	if sub.SinkCredential.bare() {
		return Subscription{}, false, InvalidError{{"/sinkcredential", "want the credential with its secret"}}
	}
	if _, err := sub.compile(s.config.Guard, s.offered); err != nil {
		return Subscription{}, false, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Subscription{}, false, fmt.Errorf("id of a subscription: %w", err)
	}
	key, requestBody := q.digests(tenant, client)
	now := time.Now()
	r := &row{id: id, tenant: tenant, client: client, state: Pending, stated: sub.stated(), credential: sub.SinkCredential, secrets: []Secret{newSecret(now)}}
	document, credential, secrets, err := s.sealed(r)
	if err != nil {
		return Subscription{}, false, err
	}
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		// The row of the generation makes creators wait for each other, so that the count
		// holds when they commit.
		if err := bump(ctx, tx); err != nil {
			return err
		}
		if key != nil {
			if earlier, err := s.earlier(ctx, tx, key, requestBody); err != nil || earlier != nil {
				r, repeated = earlier, true
				return err
			}
		}
		var ofTenant, ofClient int
		err := tx.QueryRow(ctx, `
			select count(*), count(*) filter (where client = $2) from webhook_subscription
			where tenant = $1 and state <> 'deleted'`, tenant, client).Scan(&ofTenant, &ofClient)
		switch {
		case err != nil:
			return err
		case ofTenant >= s.config.TenantMax:
			return fmt.Errorf("%w: the tenant has %d", ErrTooMany, ofTenant)
		case client != "" && ofClient >= s.config.ClientMax:
			return fmt.Errorf("%w: the client has %d", ErrTooMany, ofClient)
		}
		rows, err := tx.Query(ctx, `
			insert into webhook_subscription (id, tenant, client, state, document, credential, secrets, lane, ask_at, request_key, request_body)
			values ($1, $2, $3, 'pending', $4, $5, $6, $7, clock_timestamp(), $8, $9)
			returning `+rowColumns, id, tenant, client, document, credential, secrets, laneOf(id), key, requestBody)
		if err != nil {
			return err
		}
		r, err = pgx.CollectExactlyOneRow(rows, s.scanOne)
		return err
	})
	if err != nil {
		return Subscription{}, false, fmt.Errorf("create subscription: %w", err)
	}
	s.woken()
	created := r.subscription(now)
	if now.Sub(r.createdAt) < toldAgainFor {
		created.Signing = r.secrets
	}
	return created, repeated, nil
}

// toldAgainFor is for how long a repeat of the request that made a subscription is told
// its secrets.
const toldAgainFor = 24 * time.Hour

// earlier returns the subscription that was made under a key; nil when there is none.
func (s *Store) earlier(ctx context.Context, tx pgx.Tx, key, requestBody []byte) (*row, error) {
	rows, err := tx.Query(ctx, "select "+rowColumns+", request_body from webhook_subscription where request_key = $1", key)
	if err != nil {
		return nil, err
	}
	var before []byte
	r, err := pgx.CollectExactlyOneRow(rows, func(from pgx.CollectableRow) (*row, error) { return s.scan(from, &before) })
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // there is none, which is no error
	case err != nil:
		return nil, err
	case !bytes.Equal(before, requestBody):
		return nil, ErrKeyReused
	case r.state == deleted:
		return nil, fmt.Errorf("%w: the one of this Idempotency-Key was deleted", ErrState)
	}
	return r, nil
}

func (s *Subscription) stated() stated {
	return stated{
		Source: s.Source, Types: s.Types, Config: s.Config, Filters: s.Filters, Sink: s.Sink, ProtocolSettings: s.ProtocolSettings,
	}
}

// bump has every matcher load the subscriptions anew.
func bump(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "update webhook_generation set n = n + 1")
	return err
}

// Get returns one subscription.
func (s *Store) Get(ctx context.Context, scope Scope, id string) (Subscription, error) {
	r, err := s.load(ctx, s.pool, scope, id, "")
	if err != nil {
		return Subscription{}, err
	}
	return r.subscription(time.Now()), nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (s *Store) load(ctx context.Context, from querier, scope Scope, id, lock string) (*row, error) {
	key, err := uuid.Parse(id)
	if err != nil || key.String() != id {
		return nil, ErrNotFound
	}
	rows, err := from.Query(ctx, "select "+rowColumns+` from webhook_subscription
		where id = $1 and state <> 'deleted' and ($2 or tenant = $3) `+lock, key, scope.Everyone, scope.Tenant)
	if err != nil {
		return nil, fmt.Errorf("read subscription %s: %w", id, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, s.scanOne)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("read subscription %s: %w", id, err)
	}
	return r, nil
}

// Page is a part of the list of subscriptions.
type Page struct {
	Subscriptions []Subscription
	// Next continues the list; empty when this is the last part.
	Next string
}

// ListMax bounds one part of a list.
const ListMax = 200

// List returns subscriptions in the order in which they were made, those after the
// cursor, of that state unless it is empty.
func (s *Store) List(ctx context.Context, scope Scope, state State, cursor string, limit int) (Page, error) {
	after := uuid.Nil
	if cursor != "" {
		var err error
		if after, err = uuid.Parse(cursor); err != nil {
			return Page{}, ErrCursor
		}
	}
	limit = max(1, min(limit, ListMax))
	rows, err := s.pool.Query(ctx, "select "+rowColumns+` from webhook_subscription
		where id > $1 and state <> 'deleted' and ($2 or tenant = $3) and ($4 = '' or state = $4)
		order by id limit $5`, after, scope.Everyone, scope.Tenant, string(state), limit+1)
	if err != nil {
		return Page{}, fmt.Errorf("list subscriptions: %w", err)
	}
	all, err := pgx.CollectRows(rows, s.scanOne)
	if err != nil {
		return Page{}, fmt.Errorf("list subscriptions: %w", err)
	}
	page := Page{Subscriptions: make([]Subscription, 0, len(all))}
	for _, r := range all[:min(limit, len(all))] {
		page.Subscriptions = append(page.Subscriptions, r.subscription(time.Now()))
	}
	if len(all) > limit {
		page.Next = page.Subscriptions[limit-1].ID
	}
	return page, nil
}

// lock loads a subscription under its lock, for a change of what it had at that revision.
func (s *Store) lock(ctx context.Context, tx pgx.Tx, scope Scope, id string, revision int64) (*row, error) {
	if err := bump(ctx, tx); err != nil { // first, as Create does, so that the two never deadlock
		return nil, err
	}
	r, err := s.load(ctx, tx, scope, id, "for update")
	if err == nil && revision != AnyRevision && revision != r.revision {
		return nil, fmt.Errorf("%w %d: it is at %d", ErrRevision, revision, r.revision)
	}
	return r, err
}

// change applies a change to a subscription under its lock. It is refused with [ErrState]
// when what is secret cannot be opened, since it would be lost.
func (s *Store) change(ctx context.Context, scope Scope, id string, revision int64, apply func(tx pgx.Tx, r *row) error) (Subscription, error) {
	var r *row
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if r, err = s.lock(ctx, tx, scope, id, revision); err != nil {
			return err
		}
		if r.unopened != nil {
			return fmt.Errorf("%w: %w", ErrState, r.unopened)
		}
		if err := apply(tx, r); err != nil {
			return err
		}
		return s.write(ctx, tx, r)
	})
	if err != nil {
		return Subscription{}, err
	}
	s.woken()
	return r.subscription(time.Now()), nil
}

// write stores a row that was loaded under its lock, as its next revision.
func (s *Store) write(ctx context.Context, tx pgx.Tx, r *row) error {
	document, credential, secrets, err := s.sealed(r)
	if err != nil {
		return err
	}
	err = tx.QueryRow(ctx, `
		update webhook_subscription set revision = revision + 1, updated_at = clock_timestamp(), state = $2, reason = $3, document = $4,
			credential = $5, secrets = $6, since = $7, granted_at = $8, granted_by = $9, allowed_rate = $10, ask_at = $11, asked = $12,
			failures = $13, rest_until = $14,
			callback = case when $11::timestamptz is not null and $15 then callback end -- told to that sink only
		where id = $1 returning revision, updated_at`,
		r.id, string(r.state), r.reason, document, credential, secrets, r.since, r.grantedAt, r.grantedBy, r.allowedRate, r.askAt, r.asked,
		r.failures, r.restUntil, r.stated.Sink == r.sinkBefore).Scan(&r.revision, &r.updatedAt)
	if err != nil {
		return fmt.Errorf("write subscription %s: %w", r.id, err)
	}
	return nil
}

// Replace states a subscription anew. A new sink is asked for permission before anything
// is sent to it, and what is secret in the credential must come with it; otherwise a
// credential without its secret keeps the one that is stored.
func (s *Store) Replace(ctx context.Context, scope Scope, sub Subscription, revision int64) (Subscription, error) {
	return s.change(ctx, scope, sub.ID, revision, func(tx pgx.Tx, r *row) error {
		moved := sub.Sink != r.stated.Sink
		if sub.SinkCredential.bare() {
			if moved || r.credential == nil || r.credential.Type != sub.SinkCredential.Type {
				return InvalidError{{"/sinkcredential", "want the credential with its secret, which another sink must not get unseen"}}
			}
			sub.SinkCredential = r.credential
		}
		if _, err := sub.compile(s.config.Guard, s.offered); err != nil {
			return err
		}
		before := r.stated.Config[configOrder]
		r.stated, r.credential = sub.stated(), sub.SinkCredential
		if moved {
			r.ask(time.Now())
		}
		if order := r.stated.Config[configOrder]; order != before {
			_, err := tx.Exec(ctx, "update webhook_delivery set ordered = $2 where subscription = $1 and state = 'pending'", r.id, order == orderKey)
			if err != nil {
				return fmt.Errorf("order of the deliveries of %s: %w", r.id, err)
			}
		}
		return nil
	})
}

// ask begins asking the sink for permission.
func (r *row) ask(now time.Time) {
	r.grantedAt, r.grantedBy, r.allowedRate = nil, "", nil
	r.since, r.askAt, r.asked = now, &now, 0
	r.failures, r.restUntil = 0, nil
	if r.state != Paused {
		r.state, r.reason = Pending, ""
	}
}

// Delete removes a subscription, also one whose secrets cannot be opened any more. What
// waits for its sink is not sent any more, and goes with the next clean-up.
func (s *Store) Delete(ctx context.Context, scope Scope, id string, revision int64) error {
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		r, err := s.lock(ctx, tx, scope, id, revision)
		if err != nil {
			return err
		}
		r.state, r.reason, r.askAt, r.credential, r.secrets = deleted, "", nil, nil, nil
		return s.write(ctx, tx, r)
	})
	if err == nil {
		s.woken()
	}
	return err
}
