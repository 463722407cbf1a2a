// Package token checks JSON Web Tokens (RFC 7519) that an issuer has signed with keys
// which it publishes as a JWK Set, as access tokens of OpenID Connect and OAuth 2 are.
//
// A token is taken when all of this holds, and refused otherwise: it is signed by one
// of the issuer's keys, with an algorithm that is allowed and belongs to that key; iss
// is the issuer; aud names one of the audiences; exp is given and has not passed; and
// nbf and iat, where given, have. Symmetric algorithms and none cannot be allowed.
package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// ErrInvalid means that a token is refused. The text says why and may be told to who
// sent it.
var ErrInvalid = errors.New("token is refused")

// ErrUnavailable means that the issuer's keys cannot be had now.
var ErrUnavailable = errors.New("keys of the issuer cannot be read")

// Algorithms that may be allowed.
var Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// DefaultAlgorithms are allowed when a configuration names none.
var DefaultAlgorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}

const (
	// Leeway is by how much clocks may differ, unless told.
	Leeway = 30 * time.Second
	// LeewayMax is the most that may be told.
	LeewayMax = 5 * time.Minute
	bytesMax  = 8 << 10
	idleLimit = 2 // connections kept to an issuer
)

// Config of a [Verifier]. Two that are equal by [Config.Equal] verify the same.
type Config struct {
	// Issuer is what iss must be.
	Issuer string
	// Audiences are those of which aud must name one.
	Audiences []string
	// JWKS is the URL of the issuer's keys; empty: what the issuer's OpenID
	// configuration says.
	JWKS string
	// Algorithms are allowed; empty means [DefaultAlgorithms].
	Algorithms []string
	// Leeway is by how much clocks may differ.
	Leeway time.Duration
}

// Equal reports whether both verify the same.
func (c Config) Equal(other Config) bool {
	return c.Issuer == other.Issuer && c.JWKS == other.JWKS && c.Leeway == other.Leeway &&
		slices.Equal(c.Audiences, other.Audiences) && slices.Equal(c.Algorithms, other.Algorithms)
}

// Verifier checks tokens of one issuer. Make it with [New]; it is safe for concurrent
// use.
type Verifier struct {
	config  Config
	allowed []jose.SignatureAlgorithm
	keys    *keySet
	cache   cache
}

// Token is a token that was taken.
type Token struct {
	ID      string // jti; may be empty
	Expires time.Time
	Claims  Claims // all of them
}

// New returns a verifier. It asks the issuer for nothing before the first token. A nil
// client is one that gives up after 5 s, a nil logger slog.Default.
func New(config Config, client *http.Client, logger *slog.Logger) *Verifier {
	if len(config.Algorithms) == 0 {
		config.Algorithms = DefaultAlgorithms
	}
	v := &Verifier{config: config, keys: newKeySet(config, client, logger)}
	for _, name := range config.Algorithms {
		v.allowed = append(v.allowed, jose.SignatureAlgorithm(name))
	}
	return v
}

// Config returns what it was made of.
func (v *Verifier) Config() Config { return v.config }

// IssuerOf returns what a token says of its issuer, before anything is checked.
func IssuerOf(text string) string {
	if len(text) > bytesMax {
		return ""
	}
	parsed, err := jwt.ParseSigned(text, allAlgorithms)
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return ""
	}
	return claims.Issuer
}

var allAlgorithms = func() (all []jose.SignatureAlgorithm) {
	for _, name := range Algorithms {
		all = append(all, jose.SignatureAlgorithm(name))
	}
	return all
}()

// Looks reports whether text has the form of a signed token.
func Looks(text string) bool { return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2 }

// Known returns what a token says that was taken a moment ago.
func (v *Verifier) Known(text string) (Token, bool) {
	generation, fresh := v.keys.generation()
	if !fresh {
		return Token{}, false
	}
	return v.cache.get(text, generation)
}

// Verify returns what a token says, when it is taken; otherwise an error that is
// [ErrInvalid] or [ErrUnavailable].
func (v *Verifier) Verify(ctx context.Context, text string) (Token, error) {
	if len(text) > bytesMax {
		return Token{}, fmt.Errorf("%w: it is longer than %d bytes", ErrInvalid, bytesMax)
	}
	if known, ok := v.Known(text); ok {
		return known, nil
	}
	parsed, err := jwt.ParseSigned(text, v.allowed)
	if err != nil {
		return Token{}, fmt.Errorf("%w: it is no JWT signed with %s", ErrInvalid, strings.Join(v.config.Algorithms, ", "))
	}
	header := parsed.Headers[0]
	generation, _ := v.keys.generation() // before the keys are had, so that it is no later one
	keys, err := v.keys.find(ctx, header.KeyID, header.Algorithm)
	if err != nil {
		return Token{}, err
	}
	var (
		standard jwt.Claims
		all      Claims
	)
	signed := false
	for i := range keys {
		if signed = parsed.Claims(keys[i].Key, &standard, &all) == nil; signed {
			break
		}
	}
	if !signed {
		return Token{}, fmt.Errorf("%w: its signature is not of a key of %s", ErrInvalid, v.config.Issuer)
	}
	if standard.Expiry == nil {
		return Token{}, fmt.Errorf("%w: it has no exp", ErrInvalid)
	}
	expected := jwt.Expected{Issuer: v.config.Issuer, AnyAudience: v.config.Audiences, Time: time.Now()}
	if err := standard.ValidateWithLeeway(expected, v.config.Leeway); err != nil {
		return Token{}, fmt.Errorf("%w: %s", ErrInvalid, reason(err))
	}
	taken := Token{ID: standard.ID, Expires: standard.Expiry.Time().Add(v.config.Leeway), Claims: all}
	v.cache.put(text, generation, taken)
	return taken, nil
}

// reason says in a few words which claim is wrong.
func reason(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{jwt.ErrExpired, "it has expired"},
		{jwt.ErrNotValidYet, "it is not valid yet"},
		{jwt.ErrIssuedInTheFuture, "it was issued in the future"},
		{jwt.ErrInvalidIssuer, "it is of another issuer"},
		{jwt.ErrInvalidAudience, "it is for another audience"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "its claims are not valid"
}
