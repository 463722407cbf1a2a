package prompt

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the package, beside those of the outbox.
func Migrations() fs.FS { return migrations }

// Topics lists where the package's events go, for whoever makes topics.
func Topics() []events.Topic { return []events.Topic{aievents.PromptPublished.Topic()} }

// Errors of a [Store].
var (
	ErrNotFound = errors.New("there is no such prompt")
	// ErrUnavailable means that the prompts cannot be read.
	ErrUnavailable = errors.New("prompts cannot be read")
)

// Channels of a prompt.
const (
	Latest = "latest"
	Stable = "stable"
)

// Version is a prompt that was published.
type Version struct {
	Tenant      string    `json:"tenant,omitempty"` // empty: for everybody
	Version     int       `json:"version"`
	Digest      string    `json:"digest"`
	PublishedAt time.Time `json:"published_at"`
	Prompt      Prompt    `json:"prompt"`
}

// Listed is a prompt with what its channels stand for.
type Listed struct {
	Tenant      string `json:"tenant,omitempty"`
	Slug        string `json:"slug"`
	Description string `json:"description,omitempty"`
	Versions    int    `json:"versions"`
	Latest      int    `json:"latest"`
	Stable      int    `json:"stable,omitempty"` // 0: none is
}

// Store keeps prompts. It is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	wake func()

	mu    sync.Mutex
	ready map[versionKey]*compiled // they never change
	named map[string]pointer       // what references stand for, for a moment
}

type versionKey struct {
	tenant, slug string
	version      int
}

type pointer struct {
	key   versionKey
	until time.Time
}

const (
	pointsFor = time.Second // how long a moved channel may be passed over
	readyMax  = 1000
)

// NewStore returns the store of a database with its tables. wake is called after each
// commit that wrote to the outbox.
func NewStore(pool *pgxpool.Pool, wake func()) *Store {
	return &Store{pool: pool, wake: wake, ready: make(map[versionKey]*compiled), named: make(map[string]pointer)}
}

// Publish publishes p as the next version, for one tenant or for everybody, and moves
// latest to it. What is the same as the latest version is not published again: that
// one is returned.
func (s *Store) Publish(ctx context.Context, tenant string, p Prompt) (v Version, err error) {
	if err := p.Validate(); err != nil {
		return v, err
	}
	document, err := json.Marshal(p)
	if err != nil || len(document) > documentsMax {
		return v, fmt.Errorf("%w: it has %d bytes; at most %d are allowed", ErrInvalid, len(document), documentsMax)
	}
	v = Version{Tenant: tenant, Digest: digest(document), Prompt: p}
	fresh := false
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		// Two who publish at once wait for each other here.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended('ai_prompt ' || $1 || ' ' || $2, 0))", tenant, p.Slug); err != nil {
			return err
		}
		var last string
		err := tx.QueryRow(ctx, `
			select version, digest, published_at from ai_prompt_version where tenant = $1 and slug = $2 order by version desc limit 1`,
			tenant, p.Slug).Scan(&v.Version, &last, &v.PublishedAt)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if fresh = last != v.Digest; !fresh {
			return nil
		}
		v.Version++
		err = tx.QueryRow(ctx, `
			insert into ai_prompt_version (tenant, slug, version, document, digest) values ($1, $2, $3, $4, $5) returning published_at`,
			tenant, p.Slug, v.Version, string(document), v.Digest).Scan(&v.PublishedAt)
		if err != nil {
			return err
		}
		if err := point(ctx, tx, tenant, p.Slug, Latest, v.Version); err != nil {
			return err
		}
		return tell(ctx, tx, aievents.PromptPublished, v, "", "")
	})
	if err != nil {
		return v, fmt.Errorf("publish prompt %s: %w", p.Slug, err)
	}
	if fresh {
		s.moved()
	}
	return v, nil
}

// moved tells that a channel stands for something else from now on.
func (s *Store) moved() {
	s.mu.Lock()
	clear(s.named)
	s.mu.Unlock()
	s.wake()
}

func point(ctx context.Context, tx pgx.Tx, tenant, slug, channel string, version int) error {
	_, err := tx.Exec(ctx, `
		insert into ai_prompt_channel (tenant, slug, channel, version) values ($1, $2, $3, $4)
		on conflict (tenant, slug, channel) do update set version = excluded.version, moved_at = clock_timestamp()`, tenant, slug, channel, version)
	return err
}

func tell(ctx context.Context, tx pgx.Tx, fact events.Fact[aievents.PromptVersion], v Version, channel, turn string) error {
	payload := aievents.PromptVersion{Tenant: v.Tenant, Slug: v.Prompt.Slug, Version: v.Version, Channel: channel, Digest: v.Digest}
	id := events.DeriveID(v.Tenant, payload.Slug, strconv.Itoa(v.Version), channel, turn, fact.Type())
	e, err := fact.New(id, "/ai/prompts", payload, time.Now())
	if err != nil {
		return err
	}
	e.Subject, e.PartitionKey = payload.Slug, payload.Slug
	if v.Tenant != "" {
		e.SetExtension(events.TenantExtension, v.Tenant)
	}
	return outbox.Write(ctx, tx, broker.Message{Topic: fact.Topic(), PublishID: id, Event: e})
}

// Move has a channel stand for a version.
func (s *Store) Move(ctx context.Context, tenant, slug, channel string, version int) error {
	if channel != Stable && channel != Latest {
		return fmt.Errorf("%w: channel %q: want latest or stable", ErrInvalid, channel)
	}
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		v := Version{Tenant: tenant, Version: version, Prompt: Prompt{Slug: slug}}
		var turn string
		err := tx.QueryRow(ctx, `
			select digest, pg_current_xact_id()::text from ai_prompt_version where tenant = $1 and slug = $2 and version = $3`, tenant, slug, version).Scan(&v.Digest, &turn)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		if err := point(ctx, tx, tenant, slug, channel, version); err != nil {
			return err
		}
		return tell(ctx, tx, aievents.PromptChannelMoved, v, channel, turn)
	})
	if err != nil {
		return fmt.Errorf("move %s of prompt %s to version %d: %w", channel, slug, version, err)
	}
	s.moved()
	return nil
}

// List returns the prompts that a tenant may call: its own and those for everybody.
func (s *Store) List(ctx context.Context, tenant string) ([]Listed, error) {
	rows, err := s.pool.Query(ctx, `
		select v.tenant, v.slug, coalesce((array_agg(v.document->>'description' order by v.version desc))[1], ''), count(*),
			coalesce(max(c.version) filter (where c.channel = 'latest'), 0), coalesce(max(c.version) filter (where c.channel = 'stable'), 0)
		from ai_prompt_version v left join ai_prompt_channel c on c.tenant = v.tenant and c.slug = v.slug and c.version = v.version
		where v.tenant in ('', $1) group by v.tenant, v.slug order by v.slug, v.tenant`, tenant)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Listed])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return found, nil
}

// Get returns the version that a reference stands for: slug, slug:channel or
// slug:number. A prompt of the tenant's own comes before one for everybody.
func (s *Store) Get(ctx context.Context, tenant, reference string) (Version, error) {
	key, err := s.resolve(ctx, tenant, reference)
	if err != nil {
		return Version{}, err
	}
	return s.read(ctx, key)
}

func (s *Store) read(ctx context.Context, key versionKey) (v Version, err error) {
	v = Version{Tenant: key.tenant, Version: key.version}
	err = s.pool.QueryRow(ctx, `
		select document, digest, published_at from ai_prompt_version where tenant = $1 and slug = $2 and version = $3`, key.tenant, key.slug, key.version).
		Scan(&v.Prompt, &v.Digest, &v.PublishedAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return v, fmt.Errorf("%s:%d: %w", key.slug, key.version, ErrNotFound)
	case err != nil:
		return v, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return v, nil
}

// resolve finds the version that a reference stands for.
func (s *Store) resolve(ctx context.Context, tenant, reference string) (versionKey, error) {
	slug, which, _ := strings.Cut(reference, ":")
	number, err := strconv.Atoi(which)
	fixed := err == nil && number > 0
	if !slugPattern.MatchString(slug) || !fixed && which != "" && which != Latest && which != Stable {
		return versionKey{}, fmt.Errorf("%q: %w", reference, ErrNotFound)
	}
	name := tenant + "\x00" + reference
	now := time.Now()
	s.mu.Lock()
	known, ok := s.named[name]
	s.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.key, nil
	}
	key := versionKey{slug: slug}
	query, args := `
		select tenant, version from ai_prompt_channel where tenant in ('', $1) and slug = $2 and ($3 = '' or channel = $3)
		order by tenant desc, channel desc limit 1`, []any{tenant, slug, which} // stable comes after latest
	if fixed {
		query, args = "select tenant, version from ai_prompt_version where tenant in ('', $1) and slug = $2 and version = $3 order by tenant desc limit 1", []any{tenant, slug, number}
	}
	err = s.pool.QueryRow(ctx, query, args...).Scan(&key.tenant, &key.version)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return key, fmt.Errorf("%q: %w", reference, ErrNotFound)
	case err != nil:
		return key, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.named) >= readyMax {
		clear(s.named)
	}
	s.named[name] = pointer{key, now.Add(pointsFor)}
	return key, nil
}

// compiled returns a prompt that can be called, and its version.
func (s *Store) compiled(ctx context.Context, tenant, reference string) (*compiled, int, error) {
	key, err := s.resolve(ctx, tenant, reference)
	if err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	c := s.ready[key]
	s.mu.Unlock()
	if c != nil {
		return c, key.version, nil
	}
	v, err := s.read(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	if c, err = v.Prompt.compile(); err != nil { // it was valid when it was published
		return nil, 0, fmt.Errorf("prompt %s version %d: %w", key.slug, key.version, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) >= readyMax {
		clear(s.ready)
	}
	s.ready[key] = c
	return c, key.version, nil
}
