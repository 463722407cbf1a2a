package token

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// refreshAfter is how old the keys may be before they are read again: a key that
	// the issuer has withdrawn is refused after that time.
	refreshAfter = 5 * time.Minute
	// staleMax is how old they may be when the issuer does not answer.
	staleMax = time.Hour
	// readEvery bounds how often the issuer is asked, whatever clients send.
	readEvery   = 10 * time.Second
	readTimeout = 5 * time.Second
	// idleFor is less than the time between reads: a connection is for one of them.
	idleFor     = 30 * time.Second
	keysMax     = 256
	setBytesMax = 1 << 20
	rsaBitsMin  = 2048
)

// keySet is the keys of an issuer, read when they are asked for. One request reads at
// a time; the others wait for it, unless they have a key that is not stale.
type keySet struct {
	config Config
	client *http.Client
	logger *slog.Logger

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	version int           // counts the times they were read
	readAt  time.Time     // when keys were had
	triedAt time.Time     // when they were last asked for
	failure error         // of the last time; nil when it was well
	reading chan struct{} // closed when a read that is under way ends; nil: none is
}

func newKeySet(config Config, client *http.Client, logger *slog.Logger) *keySet {
	if client == nil {
		client = &http.Client{Timeout: readTimeout, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: idleLimit, IdleConnTimeout: idleFor, ForceAttemptHTTP2: true,
		}}
	}
	if logger == nil {
		logger = slog.Default()
	}
	return &keySet{config: config, client: client, logger: logger}
}

// find returns the keys that may have signed a token with that kid, which may be empty,
// and algorithm.
func (s *keySet) find(ctx context.Context, kid, algorithm string) ([]jose.JSONWebKey, error) {
	for {
		s.mu.Lock()
		now := time.Now()
		age := now.Sub(s.readAt)
		have := len(s.keys) > 0 && age < staleMax
		matching := s.matching(kid, algorithm)
		usable := have && len(matching) > 0
		wanted := !usable || age > refreshAfter
		if wanted && s.reading == nil && now.Sub(s.triedAt) >= readEvery {
			s.triedAt, s.reading = now, make(chan struct{})
			go s.read() //nolint:gosec // with a context of its own: others wait for it too
		}
		reading, failure := s.reading, s.failure
		s.mu.Unlock()
		switch {
		case usable:
			return matching, nil
		case reading != nil:
			select {
			case <-reading:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
		case !have || failure != nil:
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, failure)
		case kid == "":
			return nil, fmt.Errorf("%w: it does not say which key of %s has signed it", ErrInvalid, s.config.Issuer)
		}
		return nil, fmt.Errorf("%w: %s has no key %q for %s", ErrInvalid, s.config.Issuer, kid, algorithm)
	}
}

// generation counts the times the keys were read. It is told only while they are as
// fresh as they should be, so that who relies on it has them read again.
func (s *keySet) generation() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version, time.Since(s.readAt) <= refreshAfter
}

// matching returns the keys for that kid and algorithm. A token without a kid is for
// the only key of its algorithm.
func (s *keySet) matching(kid, algorithm string) (all []jose.JSONWebKey) {
	for _, key := range s.keys {
		if (kid == "" || key.KeyID == kid) && (key.Algorithm == "" || key.Algorithm == algorithm) {
			all = append(all, key)
		}
	}
	if kid == "" && len(all) > 1 {
		return nil
	}
	return all
}

// read asks the issuer.
func (s *keySet) read() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*readTimeout)
	defer cancel()
	keys, err := s.fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure = err; err != nil {
		s.logger.Warn("keys of a token issuer cannot be read", "issuer", s.config.Issuer, "age", time.Since(s.readAt), "error", err)
	} else {
		s.keys, s.readAt = keys, time.Now()
		s.version++
	}
	close(s.reading)
	s.reading = nil
}

func (s *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	address := s.config.JWKS
	if address == "" {
		var discovered struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := s.get(ctx, strings.TrimSuffix(s.config.Issuer, "/")+"/.well-known/openid-configuration", &discovered); err != nil {
			return nil, err
		}
		if discovered.Issuer != s.config.Issuer || discovered.JWKS == "" {
			return nil, fmt.Errorf("the OpenID configuration of %s is of the issuer %q and has the jwks_uri %q", s.config.Issuer, discovered.Issuer, discovered.JWKS)
		}
		if u, err := url.Parse(discovered.JWKS); err != nil || strings.HasPrefix(s.config.Issuer, "https:") && u.Scheme != "https" {
			return nil, fmt.Errorf("the OpenID configuration of %s has the jwks_uri %q, whose answer anybody on the way could change: want https", s.config.Issuer, discovered.JWKS)
		}
		address = discovered.JWKS
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := s.get(ctx, address, &set); err != nil {
		return nil, err
	}
	var usable []jose.JSONWebKey
	for _, raw := range set.Keys[:min(len(set.Keys), keysMax)] {
		var key jose.JSONWebKey
		// A key of a kind that is not known here must not hide the others.
		if err := json.Unmarshal(raw, &key); err == nil && verifies(&key) {
			usable = append(usable, key)
		}
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("%s has no public key for signatures", address)
	}
	return usable, nil
}

// verifies reports whether a key may check signatures: a public one, for that use, and
// strong enough.
func verifies(key *jose.JSONWebKey) bool {
	if !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
		return false
	}
	if public, ok := key.Key.(*rsa.PublicKey); ok {
		return public.N.BitLen() >= rsaBitsMin
	}
	return true
}

func (s *keySet) get(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json, application/jwk-set+json")
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, setBytesMax)).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return nil
}
