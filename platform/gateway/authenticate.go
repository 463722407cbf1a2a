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
	// challengeInvalid is for a credential that is not taken.
	challengeInvalid = realm + `, error="invalid_token"`
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
	identity, refused := g.examine(r, s, d)
	if refused != nil && refused.problem.Code != codeScopeMissing {
		refused.answer(x, r)
		return nil
	}
	if identity.Client == "" && refused == nil { // nobody's, which is good enough
		return r
	}
	x.identity, x.checked = identity, true
	if refused != nil {
		refused.answer(x, r)
		return nil
	}
	return r.WithContext(WithIdentity(r.Context(), identity))
}

// Identify does for a handler beside the gateway what the gateway does before it serves
// a resource that is always there: it refuses requests of a suspicious form and for
// other hosts, and finds out who sent one. The problem is nil when the request may be
// served; else header goes with it.
func (g *Gateway) Identify(r *http.Request) (identity Identity, header http.Header, problem *Problem) {
	if code, detail := checkHygiene(r); code != "" {
		return Identity{}, nil, newProblem(code, detail)
	}
	if misdirected(r, g.config.Hosts) {
		return Identity{}, nil, newProblem(codeMisdirected, "")
	}
	s := g.current.Load()
	d := s.table.auth.builtIn
	if d == nil {
		return IdentityOf(r.Context()), nil, nil
	}
	identity, refused := g.examine(r, s, d)
	if refused == nil {
		return identity, nil, nil
	}
	header = make(http.Header)
	refused.mark(header)
	return Identity{}, header, refused.problem
}

// refusal is why a request is not served to who sent it.
type refusal struct {
	problem   *Problem
	challenge string // WWW-Authenticate
	later     bool   // it may be served in a moment
}

func (f *refusal) mark(header http.Header) {
	if f.challenge != "" {
		header.Set("Www-Authenticate", f.challenge)
	}
	if f.later {
		header.Set("Retry-After", "1")
	}
}

func (f *refusal) answer(x *exchange, r *http.Request) {
	f.mark(x.Header())
	x.problem(r, f.problem)
}

// examine looks at the credential of a request. Where only a scope is missing, it
// returns both the identity and the refusal.
func (g *Gateway) examine(r *http.Request, s *snapshot, d *demand) (Identity, *refusal) {
	credential, isToken, fault := credentialOf(r.Header)
	switch {
	case fault != "":
		return Identity{}, &refusal{problem: newProblem(codeCredentialAmbiguous, fault)}
	case credential == "" && d.optional:
		return Identity{}, nil
	case credential == "":
		return Identity{}, &refusal{problem: newProblem(codeCredentialRequired, d.wanted()), challenge: realm}
	}
	identity, err := g.identify(r.Context(), s, d, credential, isToken)
	switch {
	case errors.Is(err, ErrCredentialRefused) || errors.Is(err, token.ErrInvalid) || errors.Is(err, errUnmapped):
		return Identity{}, &refusal{problem: newProblem(codeCredentialInvalid, sentence(err.Error())), challenge: challengeInvalid}
	case err != nil:
		if r.Context().Err() == nil { // else it failed because the client has gone
			g.logger.WarnContext(r.Context(), "credential cannot be checked", slog.String("path", r.URL.Path), slog.Any("error", err))
		}
		return Identity{}, &refusal{
			problem: newProblem(codeCredentialUnchecked, "Whether the credential is good cannot be told now. Try again in a moment."), later: true,
		}
	}
	if p := d.lacks(identity); p != nil {
		return identity, &refusal{problem: p, challenge: realm + `, error="insufficient_scope", scope="` + strings.Join(d.scopes, " ") + `"`}
	}
	return identity, nil
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
	for _, i := range d.issuers {
		if known, ok := s.verifiers[i.name].Known(credential); ok {
			return i.identify(known)
		}
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
