package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/platform/gateway/token"
)

// authentication is what a table asks of those who send requests.
type authentication struct {
	// byDefault is for routes that say nothing; nil asks for nothing.
	byDefault *demand
	// said is whether the table says what its default is.
	said    bool
	issuers map[string]*issuer
	// builtIn is for what is always there.
	builtIn *demand
	// reads and writes are the scopes that the subscriptions ask for besides.
	reads, writes []string
}

// demand is the credential that a route asks for. A nil demand asks for none, and looks
// at none that is sent.
type demand struct {
	keys    bool
	issuers []*issuer // whose tokens are taken; none when tokens are not
	// optional takes a request without a credential, as nobody's.
	optional bool
	scopes   []string // all are needed
}

// The ways by which a route may ask.
const (
	authNone   = "none"
	authKey    = "key"
	authJWT    = "jwt"
	authEither = "either"
)

// by returns the word for the demand.
func (d *demand) by() string {
	switch {
	case d == nil:
		return authNone
	case d.keys && len(d.issuers) > 0:
		return authEither
	case d.keys:
		return authKey
	}
	return authJWT
}

// takesAllOf reports whether a request that another demand lets pass has a credential
// that this one takes, whatever its scopes.
func (d *demand) takesAllOf(other *demand) bool {
	switch {
	case d == nil:
		return true
	case other == nil, other.optional && !d.optional, other.keys && !d.keys:
		return false
	}
	return !slices.ContainsFunc(other.issuers, func(i *issuer) bool { return !slices.Contains(d.issuers, i) })
}

// scopesMax bounds the scopes of one route.
const scopesMax = 16

// Open reports whether routes of the table ask for no credential unless they say so.
func (t *Table) Open() bool { return t.auth.byDefault == nil }

// SaysDefault reports whether the table says what routes ask for that do not say so. One
// that does not is open.
func (t *Table) SaysDefault() bool { return t.auth.said }

// asksForKeys reports whether a route of the table asks for an API key.
func (t *Table) asksForKeys() bool {
	return slices.ContainsFunc(t.routes, func(rt *route) bool { return rt.demand != nil && rt.demand.keys }) ||
		t.auth.builtIn != nil && t.auth.builtIn.keys
}

func (t *tableReader) readAuth(node *yaml.Node) {
	m, ok := t.mapping(node, "auth")
	if !ok {
		return
	}
	a := &t.table.auth
	a.issuers = make(map[string]*issuer)
	if issuers := m.take("issuers"); issuers != nil {
		t.readIssuers(issuers)
	}
	if scopes, ok := m.inner("subscriptions"); ok {
		t.scoped = m.at("subscriptions")
		const want = "printable ASCII without space, quote and backslash"
		a.reads = scopes.words("read", scopesMax, token.ValidScope, want)
		a.writes = scopes.words("write", scopesMax, token.ValidScope, want)
		scopes.end()
	}
	if node := m.take("default"); node != nil {
		a.said = true
		a.byDefault = t.readDemand(m, "default", node)
	}
	m.end()
}

// demandOf returns what a route asks for.
func (t *tableReader) demandOf(m mapping) *demand {
	if node := m.take("auth"); node != nil {
		return t.readDemand(m, "auth", node)
	}
	return t.table.auth.byDefault
}

// readDemand reads the field of that name: a word, or a mapping that says more.
func (t *tableReader) readDemand(m mapping, field string, node *yaml.Node) *demand {
	var (
		by    string
		names []string
	)
	d, at := &demand{}, node
	if node.Kind == yaml.ScalarNode {
		by = node.Value
	} else {
		inner, ok := t.mapping(node, m.what+": "+field)
		if !ok {
			return nil
		}
		by, at = inner.required("by"), inner.at("by")
		d.scopes = inner.words("scopes", scopesMax, token.ValidScope, "printable ASCII without space, quote and backslash")
		names = inner.words("issuers", len(t.table.auth.issuers), t.knowsIssuer, "a name under auth: issuers")
		if by == authNone && (d.scopes != nil || names != nil) {
			inner.failAt(at, "by: none asks for no credential, so it has neither scopes nor issuers")
		}
		if by == authKey && names != nil {
			inner.failAt(inner.at("issuers"), "issuers: a key has none")
		}
		inner.end()
	}
	switch by {
	case authNone:
		return nil
	case authKey:
		d.keys = true
		return d
	case authEither:
		d.keys = true
	case authJWT:
	default:
		m.failAt(at, "%s: want none, key, jwt or either", field)
		return d
	}
	if names == nil {
		names = sortedKeys(t.table.auth.issuers)
	}
	for _, name := range names {
		if i := t.table.auth.issuers[name]; i != nil {
			d.issuers = append(d.issuers, i)
		}
	}
	if len(d.issuers) == 0 {
		m.failAt(at, "%s: %s takes tokens, so auth: issuers must name who issues them", field, by)
	}
	return d
}

func (t *tableReader) knowsIssuer(name string) bool { return t.table.auth.issuers[name] != nil }

// words returns a list of texts; nil when it is not given.
func (m mapping) words(name string, most int, valid func(string) bool, want string) []string {
	node := m.take(name)
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode || len(node.Content) == 0 || len(node.Content) > most {
		m.failAt(node, "%s: want a list of 1 to %d", name, most)
		return nil
	}
	var all []string
	for _, one := range node.Content {
		one = resolve(one)
		switch {
		case one.Kind != yaml.ScalarNode || one.Tag != "!!str" || !valid(one.Value):
			m.failAt(one, "%s: %q: want %s", name, one.Value, want)
		case slices.Contains(all, one.Value):
			m.failAt(one, "%s: %q comes twice", name, one.Value)
		default:
			all = append(all, one.Value)
		}
	}
	return all
}

// ofResource returns what a request of that method to a resource asks for. Who has no
// credential has no scope.
func (a *authentication) ofResource(method string) *demand {
	scopes := a.writes
	if method == http.MethodGet || method == http.MethodHead {
		scopes = a.reads
	}
	if len(scopes) == 0 || a.builtIn == nil {
		return a.builtIn
	}
	d := *a.builtIn
	d.optional, d.scopes = false, slices.Concat(d.scopes, scopes)
	return &d
}

// settle finds what the resources that are always there ask for: what routes do by
// default or, when that is nothing and some route asks, who it is that sends a
// credential, so that the operations of a route can be asked for by who began them.
func (a *authentication) settle(routes []*route) {
	a.builtIn = a.byDefault
	if a.builtIn != nil {
		return
	}
	optional := &demand{optional: true}
	for _, rt := range routes {
		if rt.demand == nil {
			continue
		}
		optional.keys = optional.keys || rt.demand.keys
		for _, i := range rt.demand.issuers {
			if !slices.Contains(optional.issuers, i) {
				optional.issuers = append(optional.issuers, i)
			}
		}
	}
	if optional.keys || optional.issuers != nil {
		a.builtIn = optional
	}
}

// safeURL reports whether what is read from a URL is what its owner sent: by TLS, or
// from this machine.
func safeURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	host := u.Hostname()
	return u.Scheme == "https" || u.Scheme == "http" && (host == "localhost" || host == "::1" || strings.HasPrefix(host, "127."))
}
