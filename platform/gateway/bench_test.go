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
