package embeddedtest

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/platform/embedded"
)

// RestartableNATS is a NATS server that a test stops, and starts again on its store,
// while the connections to it stay and find it again, as they do with a server of its
// own process.
type RestartableNATS struct {
	dir     string
	server  *embedded.NATS
	current atomic.Pointer[nats.InProcessConnProvider]
}

// Restartable starts a server for this test, with sync and without a port. It is
// stopped and its store deleted when the test ends.
func Restartable(t testing.TB) *RestartableNATS {
	t.Helper()
	r := &RestartableNATS{dir: t.TempDir()}
	r.Start(t)
	t.Cleanup(r.Stop)
	return r
}

// Start starts the server again after [RestartableNATS.Stop]. One that does not start
// fails the test.
func (r *RestartableNATS) Start(t testing.TB) {
	t.Helper()
	server, err := embedded.StartNATS(embedded.NATSConfig{StoreDir: r.dir})
	if err != nil {
		t.Fatalf("embeddedtest: %v", err)
	}
	r.server = server
	// The options that its Connect sets hold the way into this server.
	probe, err := server.Connect(func(o *nats.Options) error {
		provider := o.InProcessServer
		r.current.Store(&provider)
		return nil
	})
	if err != nil {
		t.Fatalf("embeddedtest: %v", err)
	}
	probe.Close()
}

// Stop ends the server.
func (r *RestartableNATS) Stop() { r.server.Stop() }

// Connect opens a connection that finds the server again within moments of its start.
// It is closed when the test ends.
func (r *RestartableNATS) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect("", nats.InProcessServer(r), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatalf("embeddedtest: %v", err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// InProcessConn implements [nats.InProcessConnProvider]: it leads to the server that
// runs now.
func (r *RestartableNATS) InProcessConn() (net.Conn, error) {
	return (*r.current.Load()).InProcessConn()
}
