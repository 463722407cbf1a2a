package gateway

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Shutdown ends the server that serves the gateway without failing a request: waits
// end, streams tell their clients to come again, and every answer from now on asks its
// client to open another connection. After the delay, in which load balancers notice
// that the process is no longer ready, the server stops listening and finishes what it
// has in hand, until ctx ends.
func (g *Gateway) Shutdown(ctx context.Context, server *http.Server, delay time.Duration) error {
	g.Drain()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
	}
	if err := server.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut down gateway: %w", err)
	}
	return nil
}

// retire has the client open another connection for its next request when the gateway
// drains. A kept one could be closed just as it is used again.
func (g *Gateway) retire(w http.ResponseWriter) {
	select {
	case <-g.draining:
		w.Header().Set("Connection", "close")
	default:
	}
}
