package natsbroker

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"
)

// errLost is why an ack will not come.
var errLost = errors.New("the connection was lost before the server answered")

// loss ends waits for answers that were asked for over a connection that is lost: none
// comes over the next one, and who publishes again need not wait for a timeout.
type loss struct {
	mu   sync.Mutex
	life context.Context // of the connection, until it is lost
	end  context.CancelCauseFunc
}

// watch returns the losses of a connection. It watches until the connection is closed.
func watch(conn *nats.Conn) *loss {
	l := &loss{}
	l.life, l.end = context.WithCancelCause(context.Background())
	changes := conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	go func() {
		defer conn.RemoveStatusListener(changes)
		for status := range changes {
			l.renew()
			if status == nats.CLOSED {
				return
			}
		}
	}()
	return l
}

func (l *loss) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(errLost)
	l.life, l.end = context.WithCancelCause(context.Background())
}

// bound returns a context that also ends when the connection is lost.
func (l *loss) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	life := l.life
	l.mu.Unlock()
	bound, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(life, func() { end(errLost) })
	return bound, func() {
		stop()
		end(nil)
	}
}
