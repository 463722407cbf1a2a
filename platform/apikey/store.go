package apikey

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the table of keys.
func Migrations() fs.FS { return migrations }

// Bounds.
const (
	// LiveMax is how many keys of a client may be in force at once.
	LiveMax   = 2
	scopesMax = 64
	noteMax   = 256
	listMax   = 1000
)

// Key is what is known of a key, all but itself.
type Key struct {
	ID         string     `json:"id"`
	Tenant     string     `json:"tenant"`
	Client     string     `json:"client"`
	Scopes     []string   `json:"scopes"`
	Note       string     `json:"note,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	ReplacedBy string     `json:"replaced_by,omitempty"` // id of the key that took its place
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`
	RevokedBy  string     `json:"revoked_by,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"` // a minute late at most
}

// Live reports whether the key is in force at that time.
func (k *Key) Live(at time.Time) bool {
	return k.RevokedAt == nil && (k.ExpiresAt == nil || at.Before(*k.ExpiresAt))
}

// NewKey is what a key is made for. Tenant, Client and By are required.
type NewKey struct {
	Tenant, Client string
	Scopes         []string
	Note           string
	ExpiresAt      *time.Time // nil: never
	By             string     // who makes it
}

// RefusalError says why the store does not do what it is told. Code is for programs:
// invalid_key, too_many_keys, key_not_found or key_ended.
type RefusalError struct{ Code, Message string }

func (e *RefusalError) Error() string { return e.Message }

func refusal(code, format string, args ...any) error {
	return &RefusalError{code, fmt.Sprintf(format, args...)}
}

var (
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	scopePattern = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]{1,128}$`) // RFC 6749 §3.3
)

func (n *NewKey) check() error {
	switch {
	case !namePattern.MatchString(n.Tenant):
		return refusal("invalid_key", "tenant: want 1 to 64 letters, digits, full stops, underscores and hyphens")
	case !namePattern.MatchString(n.Client):
		return refusal("invalid_key", "client: want 1 to 64 letters, digits, full stops, underscores and hyphens")
	case len(n.Scopes) > scopesMax:
		return refusal("invalid_key", "scopes: at most %d are allowed", scopesMax)
	case len(n.Note) > noteMax:
		return refusal("invalid_key", "note: at most %d bytes are allowed", noteMax)
	case n.ExpiresAt != nil && !n.ExpiresAt.After(time.Now()):
		return refusal("invalid_key", "expires_at: it has passed")
	}
	for _, scope := range n.Scopes {
		if !scopePattern.MatchString(scope) {
			return refusal("invalid_key", "scopes: %q is none; want printable ASCII without space, quote and backslash", scope)
		}
	}
	return nil
}

// Store keeps keys in Postgres. It is safe for concurrent use.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns the keys in the pool's database, which has had [Migrations].
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool} }

const columns = `id, tenant, client, scopes, note, created_at, created_by, expires_at, coalesce(replaced_by, ''),
	revoked_at, coalesce(revoked_by, ''), coalesce(reason, ''), last_used_at`

func (k *Key) fields() []any {
	return []any{
		&k.ID, &k.Tenant, &k.Client, &k.Scopes, &k.Note, &k.CreatedAt, &k.CreatedBy, &k.ExpiresAt, &k.ReplacedBy,
		&k.RevokedAt, &k.RevokedBy, &k.Reason, &k.LastUsedAt,
	}
}

// Create makes a key and returns it with its text, which nobody can tell again. It is
// refused when the client has [LiveMax] already.
func (s *Store) Create(ctx context.Context, n NewKey) (key Key, text string, err error) {
	if err := n.check(); err != nil {
		return key, "", err
	}
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		key, text, err = insert(ctx, tx, n)
		return err
	})
	if err != nil {
		return Key{}, "", fmt.Errorf("create key of %s/%s: %w", n.Tenant, n.Client, err)
	}
	return key, text, nil
}

// insert makes a key in tx, one of a client at a time.
func insert(ctx context.Context, tx pgx.Tx, n NewKey) (key Key, text string, err error) {
	if _, err = tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended($1, 0))", "api_key/"+n.Tenant+"/"+n.Client); err != nil {
		return key, "", err
	}
	var live int
	err = tx.QueryRow(ctx, `
		select count(*) from api_key
		where tenant = $1 and client = $2 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())`,
		n.Tenant, n.Client).Scan(&live)
	if err != nil {
		return key, "", err
	}
	if live >= LiveMax {
		return key, "", refusal("too_many_keys", "the client has %d keys in force; revoke one first", live)
	}
	text, id := mintText()
	digest, _ := parse(text)
	scopes := n.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	err = tx.QueryRow(ctx, `
		insert into api_key (id, hash, tenant, client, scopes, note, created_by, expires_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8)
		returning `+columns, id, digest[:], n.Tenant, n.Client, scopes, n.Note, n.By, n.ExpiresAt).Scan(key.fields()...)
	return key, text, err
}

// Rotate makes a key to take the place of another one, with its tenant, client, scopes
// and note, and has the old one expire after the overlap. The new one lasts as long
// from now as the old one was made for.
func (s *Store) Rotate(ctx context.Context, id string, overlap time.Duration, by string) (key Key, text string, err error) {
	if overlap < 0 {
		return key, "", refusal("invalid_key", "overlap: want a duration such as 24h")
	}
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		old, err := lock(ctx, tx, id)
		if err != nil {
			return err
		}
		if !old.Live(time.Now()) {
			return refusal("key_ended", "the key is no longer in force; create another one")
		}
		n := NewKey{Tenant: old.Tenant, Client: old.Client, Scopes: old.Scopes, Note: old.Note, By: by}
		if old.ExpiresAt != nil {
			ends := time.Now().Add(old.ExpiresAt.Sub(old.CreatedAt))
			n.ExpiresAt = &ends
		}
		if key, text, err = insert(ctx, tx, n); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			update api_key set replaced_by = $2, expires_at = least(expires_at, clock_timestamp() + $3::interval)
			where id = $1`, id, key.ID, overlap)
		return err
	})
	if err != nil {
		return Key{}, "", fmt.Errorf("rotate key %s: %w", id, err)
	}
	return key, text, nil
}

// Revoke ends a key for good. One that is revoked already stays as it is.
func (s *Store) Revoke(ctx context.Context, id, by, reason string) (key Key, err error) {
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := lock(ctx, tx, id); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			update api_key set
				revoked_at = coalesce(revoked_at, clock_timestamp()), revoked_by = coalesce(revoked_by, $2), reason = coalesce(reason, $3)
			where id = $1
			returning `+columns, id, by, reason).Scan(key.fields()...)
	})
	if err != nil {
		return Key{}, fmt.Errorf("revoke key %s: %w", id, err)
	}
	return key, nil
}

func lock(ctx context.Context, tx pgx.Tx, id string) (key Key, err error) {
	err = tx.QueryRow(ctx, "select "+columns+" from api_key where id = $1 for update", id).Scan(key.fields()...)
	return key, notFound(err, id)
}

func notFound(err error, id string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return refusal("key_not_found", "there is no key %q", id)
	}
	return err
}

// Get returns a key by its id.
func (s *Store) Get(ctx context.Context, id string) (key Key, err error) {
	err = s.pool.QueryRow(ctx, "select "+columns+" from api_key where id = $1", id).Scan(key.fields()...)
	if err = notFound(err, id); err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", id, err)
	}
	return key, nil
}

// Filter selects keys; empty fields select all.
type Filter struct {
	Tenant, Client string
	// Ended includes keys that are no longer in force.
	Ended bool
}

// List returns keys by tenant and client, the newest first, 1000 at most.
func (s *Store) List(ctx context.Context, f Filter) ([]Key, error) {
	rows, err := s.pool.Query(ctx, `
		select `+columns+` from api_key
		where ($1 = '' or tenant = $1) and ($2 = '' or client = $2)
			and ($3 or revoked_at is null and (expires_at is null or expires_at > clock_timestamp()))
		order by tenant, client, created_at desc
		limit $4`, f.Tenant, f.Client, f.Ended, listMax)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (key Key, err error) {
		err = row.Scan(key.fields()...)
		return key, err
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// find returns the keys of those digests; nil for a digest of none.
func (s *Store) find(ctx context.Context, digests []Digest) ([]*Key, error) {
	hashes, at := make([][]byte, len(digests)), make(map[Digest][]int, len(digests))
	for i := range digests {
		hashes[i] = digests[i][:]
		at[digests[i]] = append(at[digests[i]], i)
	}
	rows, err := s.pool.Query(ctx, "select hash, "+columns+" from api_key where hash = any($1)", hashes)
	if err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	found := make([]*Key, len(digests))
	var (
		hash []byte
		key  Key
	)
	_, err = pgx.ForEachRow(rows, append([]any{&hash}, key.fields()...), func() error {
		one := key
		key.Scopes = nil // or the next row would be read into the same slice
		for _, i := range at[Digest(hash)] {
			found[i] = &one
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	return found, nil
}

// used notes that keys were used until now.
func (s *Store) used(ctx context.Context, ids []string) error {
	_, err := s.pool.Exec(ctx, "update api_key set last_used_at = clock_timestamp() where id = any($1)", ids)
	return err
}
