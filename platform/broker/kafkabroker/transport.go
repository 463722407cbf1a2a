package kafkabroker

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// transport sends requests over pooled connections.
//
// kafka-go finds out that a connection is broken by using it, and a server that is
// started anew breaks as many as are in the pool: readers, which rest after each
// failure, would need that many rests to get through them. So the first one that
// breaks takes the whole pool with it, and what the pool knew of leaders.
type transport struct {
	*kafka.Transport

	mu      sync.Mutex
	dropped time.Time // when the pool was dropped last
}

// dropPause is how long a new pool is kept, however many requests of the old one fail
// yet.
const dropPause = 100 * time.Millisecond

// RoundTrip implements [kafka.RoundTripper].
func (t *transport) RoundTrip(ctx context.Context, addr net.Addr, request kafka.Request) (kafka.Response, error) {
	answer, err := t.Transport.RoundTrip(ctx, addr, request)
	if broken(err) && ctx.Err() == nil { // a context that ends breaks connections as well
		t.drop()
	}
	return answer, err
}

func (t *transport) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.dropped) >= dropPause {
		t.CloseIdleConnections() // requests under way keep theirs
		t.dropped = time.Now()
	}
}

// broken reports whether an error is the connection's, and not the server's answer. A
// server that takes longer than a request may has broken none.
func broken(err error) bool {
	var operation *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &operation) && !operation.Timeout()
}
