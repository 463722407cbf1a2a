package apikey

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/countermand/countermand/platform/postgres"
)

// What a keyring says of a text that it does not take.
var (
	ErrUnknown = errors.New("the API key is unknown")
	ErrExpired = errors.New("the API key has expired")
	ErrRevoked = errors.New("the API key has been revoked")
	// ErrUnavailable means that it cannot be told now: the store does not answer.
	ErrUnavailable = errors.New("API keys cannot be checked now")
)

// FreshFor is for how long what the store has said is believed. A key that is revoked
// is refused everywhere after that time, and one that is made is taken.
const FreshFor = 2 * time.Second

const (
	// retryAfter is how long a store that did not answer is left alone by those who
	// have a key that they can believe meanwhile.
	retryAfter    = time.Second
	askTimeout    = 2 * time.Second
	askedTogether = 500
	// evictionSample is how many entries are looked at to find one that was not used
	// for long.
	evictionSample = 8
	noteUseEvery   = time.Minute
)

// KeyringConfig of a [Keyring]. Zero fields are their defaults.
type KeyringConfig struct {
	// Size is how many keys are kept in memory, and as many texts that are no keys;
	// 10,000.
	Size int
	// Grace is for how long a key that was known is taken although the store does not
	// answer; 10 min. Negative: not at all.
	Grace  time.Duration
	Logger *slog.Logger
}

// Keyring recognises keys. It asks the store once for each key that is in use in
// [FreshFor], for many keys with one statement. It is safe for concurrent use.
type Keyring struct {
	config KeyringConfig
	store  *Store
	asking *postgres.Batcher[Digest, *Key]
	fresh  time.Duration

	mu      sync.Mutex
	known   map[Digest]*entry
	unknown map[Digest]time.Time // to when the store said so
}

type entry struct {
	key       Key
	confirmed time.Time // when the store was last asked with success
	failed    time.Time // when it last did not answer
	used      time.Time
	noted     time.Time // until when its use is in the store
}

// NewKeyring returns an empty keyring of the store's keys. Have [Keyring.Run] run beside
// it.
func NewKeyring(store *Store, config KeyringConfig) *Keyring {
	if config.Size == 0 {
		config.Size = 10_000
	}
	if config.Grace == 0 {
		config.Grace = 10 * time.Minute
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Keyring{
		config: config, store: store, fresh: FreshFor,
		asking:  postgres.NewBatcher(askedTogether, askTimeout, store.find),
		known:   make(map[Digest]*entry),
		unknown: make(map[Digest]time.Time),
	}
}

// Find returns the key that text is, or one of the errors above. It is in memory when
// the key has been used within [FreshFor]; otherwise the store is asked.
func (k *Keyring) Find(ctx context.Context, text string) (Key, Digest, error) {
	digest, ok := parse(text)
	if !ok {
		return Key{}, digest, ErrUnknown
	}
	key, err := k.Check(ctx, digest)
	return key, digest, err
}

// Check is Find for a key that was found before.
func (k *Keyring) Check(ctx context.Context, digest Digest) (Key, error) {
	now := time.Now()
	key, told, err := k.remembered(digest, now)
	if !told {
		key, err = k.ask(ctx, digest, now)
	}
	switch {
	case err != nil:
		return Key{}, err
	case key.RevokedAt != nil:
		return Key{}, ErrRevoked
	case !key.Live(now):
		return Key{}, ErrExpired
	}
	return key, nil
}

// remembered returns what is in memory and may be believed.
func (k *Keyring) remembered(digest Digest, now time.Time) (key Key, told bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at, ok := k.unknown[digest]; ok && now.Sub(at) < k.fresh {
		return key, true, ErrUnknown
	}
	e := k.known[digest]
	if e == nil {
		return key, false, nil
	}
	e.used = now
	fresh := now.Sub(e.confirmed) < k.fresh
	return e.key, fresh || now.Sub(e.failed) < retryAfter && k.within(e, now), nil
}

// ask asks the store, and falls back to what was known when that does not answer.
func (k *Keyring) ask(ctx context.Context, digest Digest, now time.Time) (Key, error) {
	key, err := k.asking.Do(ctx, digest)
	if ctx.Err() != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err != nil:
		return k.fallBack(digest, now, err)
	case key == nil:
		k.forget(digest, now)
		return Key{}, ErrUnknown
	}
	k.remember(digest, key, now)
	return *key, nil
}

func (k *Keyring) within(e *entry, now time.Time) bool { return now.Sub(e.confirmed) < k.config.Grace }

// forget keeps that the store knew no such key when it was asked at that time.
func (k *Keyring) forget(digest Digest, asked time.Time) {
	delete(k.known, digest)
	if len(k.unknown) >= k.config.Size {
		for old := range k.unknown { // any: they are worth little
			delete(k.unknown, old)
			break
		}
	}
	k.unknown[digest] = asked
}

// remember keeps what the store said when it was asked at that time.
func (k *Keyring) remember(digest Digest, key *Key, asked time.Time) {
	delete(k.unknown, digest)
	e := k.known[digest]
	if e == nil {
		if len(k.known) >= k.config.Size {
			k.evict()
		}
		e = &entry{used: asked}
		k.known[digest] = e
	}
	e.key, e.confirmed, e.failed = *key, asked, time.Time{}
}

// evict forgets the one of some entries that was not used for longest.
func (k *Keyring) evict() {
	var (
		oldest Digest
		at     time.Time
		looked int
	)
	for digest, e := range k.known {
		if looked == 0 || e.used.Before(at) {
			oldest, at = digest, e.used
		}
		if looked++; looked == evictionSample {
			break
		}
	}
	delete(k.known, oldest)
}

// fallBack returns what was known before the store failed to answer.
func (k *Keyring) fallBack(digest Digest, now time.Time, cause error) (Key, error) {
	e := k.known[digest]
	if e == nil || !k.within(e, now) {
		return Key{}, fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	if e.failed.IsZero() {
		k.config.Logger.Warn("API key cannot be checked, it is taken for a while", "key", e.key.ID, "grace", k.config.Grace, "error", cause)
	}
	e.failed = now
	return e.key, nil
}

// Run notes in the store, once a minute and at the end, which keys were used, until
// ctx ends; then it returns nil.
func (k *Keyring) Run(ctx context.Context) error {
	rest := time.NewTicker(noteUseEvery)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
			k.noteUse(ctx)
		case <-ctx.Done():
			k.noteUse(context.WithoutCancel(ctx))
			return nil
		}
	}
}

func (k *Keyring) noteUse(ctx context.Context) {
	now := time.Now()
	var ids []string
	k.mu.Lock()
	for _, e := range k.known {
		if e.used.After(e.noted) {
			e.noted = now
			ids = append(ids, e.key.ID)
		}
	}
	k.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := k.store.used(ctx, ids); err != nil {
		k.config.Logger.WarnContext(ctx, "use of API keys is not noted", "keys", len(ids), "error", err)
	}
}
