package embeddedtest

import (
	"testing"

	"github.com/countermand/countermand/platform/embedded"
)

// NATSOption changes how [NATS] runs its server.
type NATSOption func(*embedded.NATSConfig)

// Sync makes JetStream sync every message to disk before it acknowledges it, as
// a server does in production.
func Sync() NATSOption {
	return func(cfg *embedded.NATSConfig) { cfg.NoSync = false }
}

// Listen opens a random loopback port for other processes to connect to; see
// the URL method of the server.
func Listen() NATSOption {
	return func(cfg *embedded.NATSConfig) { cfg.Listen = "127.0.0.1:0" }
}

// NATS starts an in-process NATS server with JetStream and an empty store for
// this test, by default without sync and without a port. It is stopped and its
// store deleted when the test ends. A server that does not start fails the
// test.
func NATS(t testing.TB, opts ...NATSOption) *embedded.NATS {
	t.Helper()
	cfg := embedded.NATSConfig{StoreDir: t.TempDir(), NoSync: true}
	for _, opt := range opts {
		opt(&cfg)
	}
	n, err := embedded.StartNATS(cfg)
	if err != nil {
		t.Fatalf("embeddedtest: %v", err)
	}
	t.Cleanup(n.Stop)
	return n
}
