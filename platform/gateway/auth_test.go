package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/countermand/countermand/platform/gateway"
)

const authRoutes = `
version: 1
auth:
  default: either
  issuers:
    corp:
      issuer: https://id.example
      jwks: ${JWKS_URL}
      audiences: [shop]
      claims: {tenant: org}
    partner:
      issuer: https://partner.example
      jwks: ${JWKS_URL}
      audiences: [shop]
      algorithms: [ES256]
      claims: {client: /app/name, scopes: permissions}
upstreams:
  order: {url: "${ORDER_URL:-http://127.0.0.1:1}"}
routes:
  - {id: place, kind: command, match: POST /v1/orders, command: shop.checkout.request.v1, auth: {by: either, scopes: [orders:write]}}
  - {id: order, kind: proxy, match: "GET /v1/orders/{id}", upstream: order}
  - {id: open, kind: proxy, match: GET /v1/open, upstream: order, auth: none}
  - {id: by-key, kind: proxy, match: GET /v1/by-key, upstream: order, auth: key}
  - {id: by-token, kind: proxy, match: GET /v1/by-token, upstream: order, auth: {by: jwt, issuers: [corp]}}
  - {id: admin, kind: proxy, match: GET /v1/admin, upstream: order, auth: {by: either, scopes: [admin, "orders:write"]}}
`

var signingKey = func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

// issuerOf serves the keys of an issuer on loopback.
func issuerOf(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signingKey.Public(), KeyID: "k", Use: "sig", Algorithm: "ES256"}}})
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func tokenWith(t testing.TB, claims map[string]any) string {
	t.Helper()
	all := map[string]any{
		"iss": "https://id.example", "aud": "shop", "exp": time.Now().Add(time.Hour).Unix(),
		"org": "acme", "azp": "till", "scope": "orders:write orders:read",
	}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: signingKey}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// keysOf are the API keys of a test: tenant/client by key.
func keysOf(_ context.Context, key string) (gateway.Identity, error) {
	switch key {
	case "key-of-shop":
		return gateway.Identity{Tenant: "acme", Client: "shop", Key: "k1", Scopes: []string{"orders:write"}}, nil
	case "key-of-reader":
		return gateway.Identity{Tenant: "acme", Client: "reader", Key: "k2"}, nil
	case "key-of-other":
		return gateway.Identity{Tenant: "other", Client: "shop", Key: "k3", Scopes: []string{"orders:write"}}, nil
	case "key-of-nobody-knows":
		return gateway.Identity{}, errors.New("connection refused")
	}
	return gateway.Identity{}, fmt.Errorf("%w: the API key is unknown", gateway.ErrCredentialRefused)
}

// setupAuth returns a gateway with a table that asks for credentials, and what the
// service behind it got.
func setupAuth(t *testing.T, table string) (*bundle, func() http.Header) {
	t.Helper()
	var got http.Header
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	t.Cleanup(service.Close)
	env := map[string]string{"ORDER_URL": service.URL, "JWKS_URL": issuerOf(t)}
	b := setupWith(t, env, func(_ *gateway.Config, deps *gateway.Deps) { deps.Keys = keysOf })
	parsed, err := gateway.ParseTable("routes.yaml", []byte(table), contracts(t), lookupIn(env))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.SetTable(parsed); err != nil {
		t.Fatal(err)
	}
	return b, func() http.Header { return got }
}

const (
	byKey     = "X-Api-Key: "
	asBearer  = "Authorization: Bearer "
	challenge = `Bearer realm="countermand"`
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	b, _ := setupAuth(t, authRoutes)
	good := tokenWith(t, nil)
	partner := tokenWith(t, map[string]any{
		"iss": "https://partner.example", "org": nil, "azp": nil, "scope": nil, "app": map[string]any{"name": "bot"}, "permissions": []string{"orders:write"},
	})
	for _, test := range []struct {
		name, path, header string
		status             int
		code               string
	}{
		{"no credential", "/v1/orders/7", "", 401, "credential_required"},
		{"a key", "/v1/orders/7", byKey + "key-of-shop", 200, ""},
		{"a key as bearer", "/v1/orders/7", asBearer + "key-of-shop", 200, ""},
		{"bearer in lower case", "/v1/orders/7", "Authorization: bearer key-of-shop", 200, ""},
		{"a token", "/v1/orders/7", asBearer + good, 200, ""},
		{"a partner's token", "/v1/orders/7", asBearer + partner, 200, ""},
		{"an unknown key", "/v1/orders/7", byKey + "key", 401, "credential_invalid"},
		{"an empty key", "/v1/orders/7", byKey, 401, "credential_required"},
		{"another scheme", "/v1/orders/7", "Authorization: Basic a2V5LW9mLXNob3A=", 401, "credential_invalid"},
		{"nothing but the scheme", "/v1/orders/7", "Authorization: Bearer", 401, "credential_invalid"},
		{"a token as a key", "/v1/orders/7", byKey + good, 401, "credential_invalid"},
		{"an expired token", "/v1/orders/7", asBearer + tokenWith(t, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), 401, "credential_invalid"},
		{"a token of nobody's", "/v1/orders/7", asBearer + tokenWith(t, map[string]any{"iss": "https://evil.example"}), 401, "credential_invalid"},
		{"a token without its tenant", "/v1/orders/7", asBearer + tokenWith(t, map[string]any{"org": nil}), 401, "credential_invalid"},
		{"a token with a strange client", "/v1/orders/7", asBearer + tokenWith(t, map[string]any{"azp": "a b"}), 401, "credential_invalid"},
		{"a store that is down", "/v1/orders/7", byKey + "key-of-nobody-knows", 503, "credential_unchecked"},
		{"none where none is needed", "/v1/open", "", 200, ""},
		{"a bad one where none is looked at", "/v1/open", byKey + "key", 200, ""},
		{"a token for keys only", "/v1/by-key", asBearer + good, 401, "credential_invalid"},
		{"a key for keys only", "/v1/by-key", byKey + "key-of-reader", 200, ""},
		{"a key for tokens only", "/v1/by-token", byKey + "key-of-shop", 401, "credential_invalid"},
		{"another issuer's token", "/v1/by-token", asBearer + partner, 401, "credential_invalid"},
		{"a token for tokens only", "/v1/by-token", asBearer + good, 200, ""},
		{"one scope of two", "/v1/admin", byKey + "key-of-shop", 403, "scope_missing"},
		{"operations", "/v1/operations", "", 401, "credential_required"},
		{"own operations", "/v1/operations", asBearer + good, 200, ""},
		{"one operation", "/v1/operations/0190", "", 401, "credential_required"},
		{"its progress", "/v1/operations/0190/events", "", 401, "credential_required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := b.do(http.MethodGet, test.path, "", header(test.header)...)
			if test.code == "" {
				wantStatus(t, w, test.status)
				return
			}
			wantProblem(t, w, test.status, test.code)
			want := map[string]string{
				"credential_required": challenge, "credential_invalid": challenge + `, error="invalid_token"`,
				"scope_missing": challenge + `, error="insufficient_scope", scope="admin orders:write"`,
			}[test.code]
			wantHeader(t, w, "Www-Authenticate", want)
		})
	}
	both := b.do(http.MethodGet, "/v1/orders/7", "", byKey+"key-of-shop", asBearer+good)
	wantProblem(t, both, http.StatusBadRequest, "credential_ambiguous")
}

func header(line string) []string {
	if line == "" {
		return nil
	}
	return []string{line}
}

// A handler beside the gateway asks for what the gateway asks for.
func TestIdentify(t *testing.T) {
	t.Parallel()
	b, _ := setupAuth(t, authRoutes)
	identify := func(field string) (gateway.Identity, http.Header, *gateway.Problem) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/elsewhere", nil)
		if name, value, found := strings.Cut(field, ": "); found {
			r.Header.Set(name, value)
		}
		return b.gateway.Identify(r)
	}
	want, err := keysOf(t.Context(), "key-of-shop")
	if err != nil {
		t.Fatal(err)
	}
	if got, _, p := identify(byKey + "key-of-shop"); p != nil || got.Tenant != want.Tenant || got.Client != want.Client {
		t.Errorf("a good key: %+v, %+v", got, p)
	}
	for field, code := range map[string]string{"": "credential_required", byKey + "bad": "credential_invalid"} {
		got, header, p := identify(field)
		if p == nil || p.Status != 401 || p.Code != code || header.Get("Www-Authenticate") == "" || got.Client != "" {
			t.Errorf("%q: %+v, %v, %+v", field, got, header, p)
		}
	}
	strange := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/elsewhere/%2e%2e/x", nil)
	if _, _, p := b.gateway.Identify(strange); p == nil || p.Code != "bad_path" {
		t.Errorf("a path that programs read differently: %+v", p)
	}
	open, _ := setupAuth(t, "version: 1\nroutes: []\n")
	if _, _, p := open.gateway.Identify(httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)); p != nil {
		t.Errorf("a table that asks for nothing: %+v", p)
	}
}

func TestACommandCarriesWhoSentIt(t *testing.T) {
	t.Parallel()
	b, _ := setupAuth(t, authRoutes)
	wantProblem(t, b.order(), http.StatusUnauthorized, "credential_required")
	wantProblem(t, b.order(byKey+"key-of-reader"), http.StatusForbidden, "scope_missing")
	const anyCommand = "/v1/commands/shop.checkout.request.v1" // is no way around
	wantProblem(t, b.do(http.MethodPost, anyCommand, order), http.StatusUnauthorized, "credential_required")
	wantProblem(t, b.do(http.MethodPost, anyCommand, order, byKey+"key-of-reader"), http.StatusForbidden, "scope_missing")
	wantProblem(t, b.do(http.MethodPost, "/v1/commands/shop.nothing.v1", order), http.StatusUnauthorized, "credential_required")
	if n := len(b.broker.messages()); n != 0 {
		t.Fatalf("%d commands got past", n)
	}
	place := func(headers ...string) string {
		return decode[accepted](t, b.order(append(headers, "Idempotency-Key: k")...)).ID
	}
	ours, again := place(byKey+"key-of-shop"), place(asBearer+"key-of-shop")
	theirs, till := place(byKey+"key-of-other"), place(asBearer+tokenWith(t, nil))
	if ours != again || ours == theirs || ours == till {
		t.Errorf("operations %s, again %s, of another tenant %s, of another client %s: a key belongs to tenant and client", ours, again, theirs, till)
	}
	if e := b.broker.messages()[0].Event; e.Extension("tenantid") != "acme" || e.Extension("clientid") != "shop" {
		t.Errorf("the command is of %q, %q", e.Extension("tenantid"), e.Extension("clientid"))
	}
	path := "/v1/operations/" + ours
	wantStatus(t, b.do(http.MethodGet, path, "", asBearer+tokenWith(t, nil)), http.StatusOK) // the same tenant
	wantProblem(t, b.do(http.MethodGet, path, "", byKey+"key-of-other"), http.StatusNotFound, "operation_not_found")
	wantProblem(t, b.do(http.MethodDelete, path, "", byKey+"key-of-other"), http.StatusNotFound, "operation_not_found")
}

func TestAServiceLearnsWhoSentARequestAndNotHow(t *testing.T) {
	t.Parallel()
	b, got := setupAuth(t, authRoutes)
	spoofed := []string{
		"Countermand-Tenant: evil", "countermand-scopes: admin", "X-Tenant-Id: evil", "X_Tenant: evil", "Connection: Countermand-Client", "Countermand-Client: evil",
	}
	wantStatus(t, b.do(http.MethodGet, "/v1/orders/7", "", append(spoofed, byKey+"key-of-shop")...), http.StatusOK)
	h := got()
	for name, want := range map[string]string{
		"Countermand-Tenant": "acme", "Countermand-Client": "shop", "Countermand-Scopes": "orders:write",
		"X-Api-Key": "", "Authorization": "", "X-Tenant-Id": "", "X_Tenant": "",
	} {
		if h.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, h.Get(name), want)
		}
	}
	wantStatus(t, b.do(http.MethodGet, "/v1/open", "", append(spoofed, asBearer+"their own")...), http.StatusOK)
	h = got()
	if h.Get("Authorization") != "Bearer their own" || h.Get("Countermand-Tenant") != "" || h.Get("Countermand-Client") != "" {
		t.Errorf("a route that looks at no credential passes on %v", h)
	}
}

// Where only some routes ask, what they began is found by who began it and by nobody
// else.
func TestOperationsOfATableThatIsOpenByDefault(t *testing.T) {
	t.Parallel()
	b, _ := setupAuth(t, strings.Replace(authRoutes, "default: either", "default: none", 1))
	id := decode[accepted](t, b.order(byKey+"key-of-shop")).ID
	path := "/v1/operations/" + id
	wantStatus(t, b.do(http.MethodGet, path, "", byKey+"key-of-reader"), http.StatusOK)
	wantProblem(t, b.do(http.MethodGet, path, ""), http.StatusNotFound, "operation_not_found")
	b.project(id, gateway.StatusRunning, nil)
	wantStatus(t, b.do(http.MethodGet, path, "", byKey+"key-of-reader"), http.StatusOK)
	for _, request := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"GET", "/events"}} {
		wantProblem(t, b.do(request[0], path+request[1], ""), http.StatusNotFound, "operation_not_found")
	}
	wantProblem(t, b.do(http.MethodGet, path, "", byKey+"wrong"), http.StatusUnauthorized, "credential_invalid")
	wantStatus(t, b.do(http.MethodGet, "/v1/orders/7", ""), http.StatusOK)
}

func TestTheKeysOfAnIssuerOutliveAReload(t *testing.T) {
	t.Parallel()
	b, _ := setupAuth(t, authRoutes)
	asks := 0
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asks++
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signingKey.Public(), KeyID: "k"}}})
	}))
	t.Cleanup(keys.Close)
	env := map[string]string{"JWKS_URL": keys.URL}
	for range 3 {
		table, err := gateway.ParseTable("routes.yaml", []byte(authRoutes), contracts(t), lookupIn(env))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.gateway.SetTable(table); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, b.do(http.MethodGet, "/v1/operations", "", asBearer+tokenWith(t, nil)), http.StatusOK)
	}
	if asks != 1 {
		t.Errorf("the issuer was asked %d times", asks)
	}
}

func TestATableThatAsksForKeysNeedsSomebodyWhoKnowsThem(t *testing.T) {
	t.Parallel()
	table, err := gateway.ParseTable("routes.yaml", []byte("version: 1\nauth: {default: key}\n"), contracts(t), lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := setup(t).gateway.SetTable(table); err == nil || !strings.Contains(err.Error(), "API keys") {
		t.Errorf("error %v", err)
	}
}

func TestWhatATableSaysOfAuth(t *testing.T) {
	t.Parallel()
	table, err := gateway.ParseTable("routes.yaml", []byte(authRoutes), contracts(t), lookupIn(map[string]string{"JWKS_URL": "https://id.example/keys"}))
	if err != nil || table.Open() || !table.SaysDefault() {
		t.Fatalf("open %t, %v", table.Open(), err)
	}
	asked := make(map[string]string)
	for _, rt := range table.Routes() {
		asked[rt.ID] = rt.Auth + " " + strings.Join(rt.Scopes, " ")
	}
	for id, want := range map[string]string{"place": "either orders:write", "order": "either ", "open": "none ", "by-key": "key ", "by-token": "jwt ", "operations": "either "} {
		if asked[id] != want {
			t.Errorf("%s asks for %q, want %q", id, asked[id], want)
		}
	}
	as := func(identity gateway.Identity) *http.Request {
		return httptest.NewRequestWithContext(gateway.WithIdentity(t.Context(), identity), http.MethodPost, "/v1/orders", http.NoBody)
	}
	if p := table.Explain(as(gateway.Identity{}), []byte(order)).Problem; p == nil || p.Code != "credential_required" {
		t.Errorf("explained %+v", p)
	}
	if p := table.Explain(as(gateway.Identity{Client: "c"}), []byte(order)).Problem; p == nil || p.Code != "scope_missing" {
		t.Errorf("explained %+v", p)
	}
	if p := table.Explain(as(gateway.Identity{Client: "c", Scopes: []string{"orders:write"}}), []byte(order)).Problem; p != nil {
		t.Errorf("explained %+v", p)
	}
	if table, err := gateway.ParseTable("routes.yaml", []byte("version: 1\n"), contracts(t), lookupIn(nil)); err != nil || !table.Open() || table.SaysDefault() {
		t.Errorf("a table that says nothing: %v", err)
	}
}

func TestAuthThatMakesNoSense(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"auth: {default: sometimes}":                                                                            "2: auth: default: want none, key, jwt or either",
		"auth: {default: jwt}":                                                                                  "2: auth: default: jwt takes tokens, so auth: issuers must name who issues them",
		"auth: {default: {by: none, scopes: [a]}}":                                                              "2: auth: default: by: none asks for no credential, so it has neither scopes nor issuers",
		"auth: {default: {by: key, scopes: ['a b']}}":                                                           `2: auth: default: scopes: "a b": want printable ASCII without space, quote and backslash`,
		"auth: {default: {by: key, scopes: [a, a]}}":                                                            `2: auth: default: scopes: "a" comes twice`,
		"auth: {issuers: {a: {issuer: 'https://a', audiences: [x], algorithms: [HS256]}}}":                      `2: issuer a: algorithms: "HS256": want one of RS256`,
		"auth: {issuers: {a: {issuer: 'https://a', audiences: [x], algorithms: [none]}}}":                       `2: issuer a: algorithms: "none": want one of RS256`,
		"auth: {issuers: {a: {issuer: 'https://a'}}}":                                                           "2: issuer a: audiences is required: without one, tokens for other services would be taken",
		"auth: {issuers: {a: {issuer: 'http://a', audiences: [x]}}}":                                            "2: issuer a: issuer: want an https URL",
		"auth: {issuers: {a: {issuer: 'a', audiences: [x], jwks: 'http://a/keys'}}}":                            "2: issuer a: jwks: want an https URL",
		"auth: {issuers: {a: {issuer: 'https://a', audiences: [x], leeway: 1h}}}":                               "2: issuer a: leeway: want at most 5m0s",
		"auth: {issuers: {a: {issuer: 'https://a', audiences: [x], tenant: t, claims: {tenant: org}}}}":         "2: issuer a: tenant: it is the claim org, or this one, and not both",
		"auth: {issuers: {a: {issuer: 'https://a', audiences: [x]}, b: {issuer: 'https://a', audiences: [x]}}}": "2: issuer b: issuer: it is that of a",
		"auth: {issuers: {a: {issuer: '${NOTHING}', audiences: [x]}}}":                                          "2: issuer a: issuer: the environment variable NOTHING is not set",
	} {
		_, err := gateway.ParseTable("routes.yaml", []byte("version: 1\n"+text+"\n"), contracts(t), lookupIn(nil))
		if err == nil || !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.HasPrefix(line, "routes.yaml:"+want) }) {
			t.Errorf("%s\n%v\nwant %s", text, err, want)
		}
	}
}
