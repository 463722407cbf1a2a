package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

// BenchmarkAccept is the gateway's own share of a command: all but the server,
// the broker and the network.
func BenchmarkAccept(b *testing.B) {
	for name, key := range map[string]string{"plain": "", "keyed": "k"} {
		b.Run(name, func(b *testing.B) {
			g := setup(b, func(_ *gateway.Config, d *gateway.Deps) {
				d.Publisher = publisherFunc(func(context.Context, broker.Message) (broker.Receipt, error) { return broker.Receipt{}, nil })
			}).gateway
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/orders", strings.NewReader(order))
				r.Header["Content-Type"] = []string{"application/json"}
				if key != "" {
					r.Header["Idempotency-Key"] = []string{key}
				}
				g.ServeHTTP(discard{http.Header{}}, r)
			}
		})
	}
}

// discard is a response nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// BenchmarkCredential is what finding out who sent a request adds to it: a list of
// operations, asked for by nobody, with an API key that is in memory, and with a token.
func BenchmarkCredential(b *testing.B) {
	env := map[string]string{"JWKS_URL": issuerOf(b)}
	g := setup(b, func(_ *gateway.Config, d *gateway.Deps) { d.Keys = keysOf }).gateway
	for name, header := range map[string]string{"none": "", "key": "Bearer key-of-shop", "token": "Bearer " + tokenWith(b, nil)} {
		b.Run(name, func(b *testing.B) {
			text := authRoutes
			if header == "" {
				text = "version: 1\n"
			}
			table, err := gateway.ParseTable("routes.yaml", []byte(text), contracts(b), lookupIn(env))
			if err != nil {
				b.Fatal(err)
			}
			if err := g.SetTable(table); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodGet, "/v1/operations", http.NoBody)
				if header != "" {
					r.Header["Authorization"] = []string{header}
				}
				g.ServeHTTP(discard{http.Header{}}, r)
			}
		})
	}
}
