package token_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/countermand/countermand/platform/gateway/token"
)

const issuer = "https://id.example"

// publisher is an issuer whose keys can be changed.
type publisher struct {
	t    *testing.T
	keys []any
	down bool
	asks int
	uri  string // where the discovery says that the keys are; empty: below the issuer
}

// RoundTrip implements [http.RoundTripper].
func (p *publisher) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.asks++; p.down {
		return nil, errors.New("connection refused")
	}
	uri := p.uri
	if uri == "" {
		uri = issuer + "/keys"
	}
	body := map[string]any{"issuer": issuer, "jwks_uri": uri}
	if r.URL.Path == "/keys" {
		body = map[string]any{"keys": p.keys}
	}
	data, err := json.Marshal(body)
	if err != nil {
		p.t.Error(err)
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(bytes.NewReader(data)), Request: r}, nil
}

func (p *publisher) verifier(change ...func(*token.Config)) *token.Verifier {
	config := token.Config{Issuer: issuer, Audiences: []string{"shop"}, JWKS: issuer + "/keys", Leeway: token.Leeway}
	for _, change := range change {
		change(&config)
	}
	return token.New(config, &http.Client{Transport: p}, slog.New(slog.DiscardHandler))
}

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })
	smallRSA = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(1024) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	})
)

func newRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

func public(kid string, key any) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key, KeyID: kid, Use: "sig"}
}

// claims are those of a good token, with changes; nil takes one away.
func claims(change map[string]any) map[string]any {
	now := time.Now()
	all := map[string]any{
		"iss": issuer, "aud": "shop", "sub": "ada", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": "t1",
		"scope": "orders:read orders:write", "realm": map[string]any{"roles": []string{"buyer", "admin"}},
	}
	for name, value := range change {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, kid string, key any, all map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWhatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{t: t, keys: []any{
			map[string]any{"kty": "a kind of tomorrow", "kid": "x"}, public("r", rsaKey().Public()), public("e", ecKey().Public()),
		}}
		v := p.verifier()
		got, err := v.Verify(t.Context(), sign(t, jose.RS256, "r", rsaKey(), claims(nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != "t1" || got.Expires != time.Unix(time.Now().Add(time.Hour+token.Leeway).Unix(), 0).UTC() && !got.Expires.Equal(time.Now().Add(time.Hour+token.Leeway)) {
			t.Errorf("%+v", got)
		}
		if diff := cmp.Diff([]string{"orders:read", "orders:write"}, got.Claims.Words("scope")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"buyer", "admin"}, got.Claims.Words("/realm/roles")); diff != "" || got.Claims.Text("sub") != "ada" || got.Claims.Text("/realm/none/x") != "" {
			t.Error(diff, got.Claims)
		}
		for name, text := range map[string]string{
			"ES256":          sign(t, jose.ES256, "e", ecKey(), claims(nil)),
			"PS256":          sign(t, jose.PS256, "r", rsaKey(), claims(nil)),
			"more audiences": sign(t, jose.RS256, "r", rsaKey(), claims(map[string]any{"aud": []string{"other", "shop"}})),
			"within leeway":  sign(t, jose.RS256, "r", rsaKey(), claims(map[string]any{"exp": time.Now().Add(-20 * time.Second).Unix()})),
			"nbf in leeway":  sign(t, jose.RS256, "r", rsaKey(), claims(map[string]any{"nbf": time.Now().Add(20 * time.Second).Unix()})),
		} {
			if _, err := v.Verify(t.Context(), text); err != nil || !token.Looks(text) || token.IssuerOf(text) != issuer {
				t.Errorf("%s: %v", name, err)
			}
		}
		if p.asks != 1 {
			t.Errorf("the issuer was asked %d times", p.asks)
		}
	})
}

func TestWhatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{t: t, keys: []any{
			public("r", rsaKey().Public()), public("e", ecKey().Public()), public("small", smallRSA().Public()),
			jose.JSONWebKey{Key: []byte("a secret that is published by mistake"), KeyID: "oct", Algorithm: "HS256"},
			jose.JSONWebKey{Key: otherRSA().Public(), KeyID: "enc", Use: "enc"},
			jose.JSONWebKey{Key: otherRSA().Public(), KeyID: "rs512", Use: "sig", Algorithm: "RS512"},
		}}
		v := p.verifier()
		der, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
		if err != nil {
			t.Fatal(err)
		}
		good := sign(t, jose.RS256, "r", rsaKey(), claims(nil))
		parts := strings.Split(good, ".")
		encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
		with := func(name string, value any) string {
			return sign(t, jose.RS256, "r", rsaKey(), claims(map[string]any{name: value}))
		}
		embedded, err := json.Marshal(map[string]any{"alg": "RS256", "jwk": public("", otherRSA().Public())})
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"nothing":                          "",
			"no token":                         "abc",
			"alg none":                         encode(`{"alg":"none"}`) + "." + parts[1] + ".",
			"alg None":                         encode(`{"alg":"None","kid":"r"}`) + "." + parts[1] + "." + parts[2],
			"HS with a public key":             sign(t, jose.HS256, "r", der, claims(nil)),
			"a published secret":               sign(t, jose.HS256, "oct", []byte("a secret that is published by mistake"), claims(nil)),
			"a key in the header":              encode(string(embedded)) + "." + parts[1] + "." + parts[2],
			"another key":                      sign(t, jose.RS256, "r", otherRSA(), claims(nil)),
			"an unknown key":                   sign(t, jose.RS256, "z", rsaKey(), claims(nil)),
			"a key of another alg":             sign(t, jose.RS256, "rs512", otherRSA(), claims(nil)),
			"a key to encrypt":                 sign(t, jose.RS256, "enc", otherRSA(), claims(nil)),
			"a small key":                      sign(t, jose.RS256, "small", smallRSA(), claims(nil)),
			"no kid, two keys":                 sign(t, jose.RS256, "", otherRSA(), claims(nil)),
			"an algorithm that is not allowed": sign(t, jose.RS384, "r", rsaKey(), claims(nil)),
			"changed claims":                   parts[0] + "." + encode(`{"iss":"`+issuer+`","aud":"shop","exp":9999999999}`) + "." + parts[2],
			"another issuer":                   with("iss", "https://id.example.evil"),
			"another audience":                 with("aud", "shop2"),
			"no audience":                      with("aud", nil),
			"expired":                          with("exp", time.Now().Add(-31*time.Second).Unix()),
			"no exp":                           with("exp", nil),
			"not yet":                          with("nbf", time.Now().Add(31*time.Second).Unix()),
			"from the future":                  with("iat", time.Now().Add(31*time.Second).Unix()),
			"too long":                         with("x", strings.Repeat("x", 8<<10)),
		} {
			if _, err := v.Verify(t.Context(), text); !errors.Is(err, token.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestKeysAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{t: t, keys: []any{public("old", rsaKey().Public())}}
		v := p.verifier(func(c *token.Config) { c.JWKS = "" }) // by discovery, which asks twice
		first := sign(t, jose.RS256, "old", rsaKey(), claims(map[string]any{"exp": time.Now().Add(time.Hour * 24).Unix()}))
		second := sign(t, jose.RS256, "new", otherRSA(), claims(map[string]any{"exp": time.Now().Add(time.Hour * 24).Unix()}))
		verify := func(text string, want error) {
			t.Helper()
			if _, err := v.Verify(t.Context(), text); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		verify(first, nil)
		p.keys = []any{public("new", otherRSA().Public())}
		for range 50 { // unknown keys do not make it ask for each token
			verify(second, token.ErrInvalid)
		}
		if p.asks != 2 {
			t.Errorf("the issuer was asked %d times, want 2", p.asks)
		}
		time.Sleep(11 * time.Second)
		verify(second, nil)
		verify(first, token.ErrInvalid) // withdrawn
		p.keys = nil
		p.down = true
		time.Sleep(6 * time.Minute)
		verify(second, nil) // asks, and goes on with what it has
		synctest.Wait()
		time.Sleep(11 * time.Second)
		verify(first, token.ErrUnavailable) // perhaps a key that is new
		time.Sleep(time.Hour)
		verify(second, token.ErrUnavailable)
		p.down, p.keys = false, []any{public("old", rsaKey().Public())}
		time.Sleep(11 * time.Second)
		verify(first, nil)
		time.Sleep(6 * time.Minute)
		p.keys = []any{public("new", otherRSA().Public())}
		verify(first, nil) // and reads beside
		synctest.Wait()
		verify(first, token.ErrInvalid) // a key that is withdrawn is refused without anybody's help
	})
}

// A token that was taken a moment ago is not checked again, and nothing makes it last
// longer than it should.
func TestATokenThatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{t: t, keys: []any{public("old", rsaKey().Public())}}
		v := p.verifier(func(c *token.Config) { c.Leeway = 0 })
		text := sign(t, jose.RS256, "old", rsaKey(), claims(map[string]any{"exp": time.Now().Add(25 * time.Second).Unix()}))
		if _, ok := v.Known(text); ok {
			t.Error("a token is known that nobody has checked")
		}
		for range 2 { // the first one has the keys read
			if _, err := v.Verify(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
		known, ok := v.Known(text)
		if !ok || known.Claims.Text("sub") != "ada" {
			t.Errorf("known %t, %+v", ok, known)
		}
		if _, ok := v.Known(text[:len(text)-1] + "-"); ok { // which no signature of 256 bytes ends with
			t.Error("another text is known")
		}
		time.Sleep(11 * time.Second)
		if _, ok := v.Known(text); ok {
			t.Error("it is known for longer than 10 s")
		}
		time.Sleep(10 * time.Second)
		if _, err := v.Verify(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // it has expired by now
		if _, err := v.Verify(t.Context(), text); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("an expired token: %v", err)
		}
	})
}

func TestKeysAreNotReadInTheClearFromASecureIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{t: t, keys: []any{public("r", rsaKey().Public())}, uri: "http://id.example/keys"}
		v := p.verifier(func(c *token.Config) { c.JWKS = "" })
		_, err := v.Verify(t.Context(), sign(t, jose.RS256, "r", rsaKey(), claims(nil)))
		if !errors.Is(err, token.ErrUnavailable) || !strings.Contains(err.Error(), "want https") {
			t.Errorf("%v", err)
		}
	})
}

func TestAnIssuerThatDoesNotAnswerIsNotTheClientsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{t: t, down: true}
		v := p.verifier()
		good := sign(t, jose.RS256, "r", rsaKey(), claims(nil))
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := v.Verify(t.Context(), good); !errors.Is(err, token.ErrUnavailable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if p.asks != 1 {
			t.Errorf("the issuer was asked %d times at once", p.asks)
		}
	})
}
