package gateway

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/platform/gateway/token"
)

// issuer is who issues tokens, and how what they say is read.
type issuer struct {
	name   string
	config token.Config
	tenant string // of all its tokens; empty: the claim says
	// Names of claims, or JSON Pointers to them.
	tenantClaim, scopesClaim string
	clientClaims             []string // the first that is there
}

// Defaults of an issuer.
const (
	audiencesMax      = 16
	scopesClaimByName = "scope"
)

// clientClaims tell who acts, in the order in which they are looked for: the client as
// RFC 9068 and OpenID Connect call it, and else the subject.
var clientClaims = []string{"client_id", "azp", "sub"}

// namePattern is what tenants and clients are called.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (t *tableReader) readIssuers(node *yaml.Node) {
	all, ok := t.mapping(node, "auth: issuers")
	if !ok {
		return
	}
	seen := make(map[string]string)
	for _, name := range all.names {
		if !idPattern.MatchString(name.Value) {
			t.fail(name, "issuer %q: want a name of lower-case letters, digits and hyphens", name.Value)
		}
		m, ok := t.mapping(all.values[name.Value], "issuer "+name.Value)
		if !ok {
			continue
		}
		i := t.readIssuer(name.Value, m)
		if other, twice := seen[i.config.Issuer]; twice && i.config.Issuer != "" {
			m.failAt(m.at("issuer"), "issuer: it is that of %s", other)
		}
		seen[i.config.Issuer] = name.Value
		t.table.auth.issuers[name.Value] = i
	}
}

func (t *tableReader) readIssuer(name string, m mapping) *issuer {
	i := &issuer{name: name, scopesClaim: scopesClaimByName, clientClaims: clientClaims}
	i.config.Issuer = t.expanded(m, "issuer", m.required("issuer"))
	i.config.JWKS = t.expanded(m, "jwks", m.text("jwks"))
	if i.config.JWKS == "" && i.config.Issuer != "" && !safeURL(i.config.Issuer) {
		m.failAt(m.at("issuer"), "issuer: want an https URL, from which the keys are found, or name their URL in jwks")
	}
	if i.config.JWKS != "" && !safeURL(i.config.JWKS) {
		m.failAt(m.at("jwks"), "jwks: want an https URL; http is for loopback")
	}
	notEmpty := func(text string) bool { return text != "" }
	if i.config.Audiences = m.words("audiences", audiencesMax, notEmpty, "a text"); i.config.Audiences == nil && m.values["audiences"] == nil {
		m.fail("audiences is required: without one, tokens for other services would be taken")
	}
	known := func(name string) bool { return slices.Contains(token.Algorithms, name) }
	i.config.Algorithms = m.words("algorithms", len(token.Algorithms), known, "one of "+strings.Join(token.Algorithms, ", "))
	i.config.Leeway = m.duration("leeway", token.Leeway)
	if i.config.Leeway > token.LeewayMax {
		m.failAt(m.at("leeway"), "leeway: want at most %s", token.LeewayMax)
	}
	i.tenant = m.text("tenant")
	if claims, ok := m.inner("claims"); ok {
		i.tenantClaim = claims.text("tenant")
		if text := claims.text("scopes"); text != "" {
			i.scopesClaim = text
		}
		if text := claims.text("client"); text != "" {
			i.clientClaims = []string{text}
		}
		claims.end()
	}
	switch {
	case i.tenant != "" && i.tenantClaim != "":
		m.failAt(m.at("tenant"), "tenant: it is the claim %s, or this one, and not both", i.tenantClaim)
	case i.tenant != "" && !namePattern.MatchString(i.tenant):
		m.failAt(m.at("tenant"), "tenant: want 1 to 64 letters, digits, full stops, underscores and hyphens")
	case i.tenant == "" && i.tenantClaim == "":
		i.tenant = name
	}
	m.end()
	return i
}

// expanded returns the text of a field with its variables replaced.
func (t *tableReader) expanded(m mapping, field, text string) string {
	expanded, err := expandEnv(text, t.lookupEnv)
	if err != nil {
		m.failAt(m.at(field), "%s: %v", field, err)
	}
	return expanded
}

// errUnmapped means that a token does not say what is needed of it.
var errUnmapped = errors.New("token is refused")

// identify returns who a token speaks for.
func (i *issuer) identify(t token.Token) (Identity, error) {
	identity := Identity{Tenant: i.tenant, Key: t.ID, Scopes: t.Claims.Words(i.scopesClaim), Expires: t.Expires}
	if i.tenantClaim != "" {
		identity.Tenant = t.Claims.Text(i.tenantClaim)
		if !namePattern.MatchString(identity.Tenant) {
			return Identity{}, fmt.Errorf("%w: its claim %s names no tenant", errUnmapped, i.tenantClaim)
		}
	}
	for _, claim := range i.clientClaims {
		if identity.Client = t.Claims.Text(claim); identity.Client != "" {
			break
		}
	}
	if !namePattern.MatchString(identity.Client) {
		return Identity{}, fmt.Errorf("%w: its claim %s names no client", errUnmapped, strings.Join(i.clientClaims, ", "))
	}
	return identity, nil
}
