package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/countermand/countermand/platform/gateway/token"
)

// ErrCredentialRefused is what [Deps].Keys returns for a key that is not taken, wrapped
// or alone. Its text is told to who sent the key.
var ErrCredentialRefused = errors.New("credential is refused")

const (
	apiKeyHeader = "X-Api-Key" //nolint:gosec // the name of a header
	realm        = `Bearer realm="countermand"`
)

// authenticated returns a handler that serves requests with a credential that the
// demand takes, with the identity in their context.
func (g *Gateway) authenticated(s *snapshot, d *demand, serve handler) handler {
	if d == nil {
		return serve
	}
	return func(x *exchange, r *http.Request) {
		if r = g.authenticate(x, r, s, d); r != nil {
			serve(x, r)
		}
	}
}

// authenticate finds out who sent a request. It returns the request with the identity
// in its context, or nil after it has answered.
func (g *Gateway) authenticate(x *exchange, r *http.Request, s *snapshot, d *demand) *http.Request {
	if d == nil {
		return r
	}
	credential, isToken, fault := credentialOf(r.Header)
	switch {
	case fault != "":
		x.fail(r, codeCredentialAmbiguous, fault)
		return nil
	case credential == "" && d.optional:
		return r
	case credential == "":
		x.Header().Set("Www-Authenticate", realm)
		x.fail(r, codeCredentialRequired, d.wanted())
		return nil
	}
	identity, err := g.identify(r.Context(), s, d, credential, isToken)
	switch {
	case errors.Is(err, ErrCredentialRefused) || errors.Is(err, token.ErrInvalid) || errors.Is(err, errUnmapped):
		x.Header().Set("Www-Authenticate", realm+`, error="invalid_token"`)
		x.fail(r, codeCredentialInvalid, sentence(err.Error()))
		return nil
	case err != nil:
		if r.Context().Err() == nil { // else it failed because the client has gone
			g.logger.WarnContext(r.Context(), "credential cannot be checked", slog.String("route", x.endpoint.id), slog.Any("error", err))
		}
		x.failLater(r, codeCredentialUnchecked, "Whether the credential is good cannot be told now. Try again in a moment.")
		return nil
	}
	x.identity, x.checked = identity, true
	if p := d.lacks(identity); p != nil {
		x.Header().Set("Www-Authenticate", realm+`, error="insufficient_scope", scope="`+strings.Join(d.scopes, " ")+`"`)
		x.problem(r, p)
		return nil
	}
	return r.WithContext(WithIdentity(r.Context(), identity))
}

// credentialOf returns the credential of a request; isToken tells a JSON Web Token
// from an API key. fault tells what makes it unclear which one counts.
func credentialOf(header http.Header) (credential string, isToken bool, fault string) {
	authorization, keys := header["Authorization"], header[apiKeyHeader]
	if len(authorization)+len(keys) > 1 {
		return "", false, "Send one credential: Authorization or X-Api-Key, once."
	}
	if len(keys) == 1 {
		return keys[0], false, ""
	}
	if len(authorization) == 0 {
		return "", false, ""
	}
	scheme, rest, _ := strings.Cut(authorization[0], " ")
	rest = strings.Trim(rest, " ")
	if !strings.EqualFold(scheme, "Bearer") || rest == "" {
		return authorization[0], false, "" // no key is like this, so it will be refused
	}
	return rest, token.Looks(rest), ""
}

// lacks returns what an identity is refused for; nil when it is not.
func (d *demand) lacks(identity Identity) *Problem {
	switch {
	case d == nil:
		return nil
	case identity.Client == "" && d.optional:
		return nil
	case identity.Client == "":
		return newProblem(codeCredentialRequired, d.wanted())
	}
	for _, scope := range d.scopes {
		if !identity.Has(scope) {
			return newProblem(codeScopeMissing, "This needs the scope "+scope+".")
		}
	}
	return nil
}

// wanted says what to send.
func (d *demand) wanted() string {
	switch d.by() {
	case authKey:
		return "Send an API key in X-Api-Key, or as Authorization: Bearer."
	case authJWT:
		return "Send a token as Authorization: Bearer."
	}
	return "Send an API key in X-Api-Key, or a key or token as Authorization: Bearer."
}

// identify returns whose credential it is.
func (g *Gateway) identify(ctx context.Context, s *snapshot, d *demand, credential string, isToken bool) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, g.config.LookupTimeout)
	defer cancel()
	if !isToken {
		if !d.keys {
			return Identity{}, fmt.Errorf("%w: this takes no API keys", ErrCredentialRefused)
		}
		return g.deps.Keys(ctx, credential)
	}
	if len(d.issuers) == 0 {
		return Identity{}, fmt.Errorf("%w: this takes no tokens", ErrCredentialRefused)
	}
	name := token.IssuerOf(credential)
	at := slices.IndexFunc(d.issuers, func(i *issuer) bool { return i.config.Issuer == name })
	if at < 0 {
		return Identity{}, fmt.Errorf("%w: the token is of no issuer whose tokens are taken here", ErrCredentialRefused)
	}
	accepted, err := s.verifiers[d.issuers[at].name].Verify(ctx, credential)
	if err != nil {
		return Identity{}, err
	}
	return d.issuers[at].identify(accepted)
}

// sentence makes a sentence of an error's text.
func sentence(text string) string {
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
