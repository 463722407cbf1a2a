package natsbroker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/platform/broker"
)

// leaky is a way to a server that can lose one thing that a client sends, and breaks
// the connection then, as a network does that fails.
type leaky struct {
	to   nats.InProcessConnProvider
	lose atomic.Pointer[[]byte] // the next write that holds it is lost
	lost chan struct{}          // capacity 1
}

// InProcessConn implements [nats.InProcessConnProvider].
func (l *leaky) InProcessConn() (net.Conn, error) {
	conn, err := l.to.InProcessConn()
	return &leakyConn{Conn: conn, way: l}, err
}

type leakyConn struct {
	net.Conn

	way    *leaky
	broken sync.Once
}

func (c *leakyConn) Write(b []byte) (int, error) {
	mark := c.way.lose.Load()
	if mark == nil || !bytes.Contains(b, *mark) {
		return c.Conn.Write(b)
	}
	c.way.lose.Store(nil)
	c.broken.Do(func() { _ = c.Close() })
	c.way.lost <- struct{}{}
	return len(b), nil // the client cannot know
}

func (c *leakyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		err = io.EOF // a pipe has errors of its own
	}
	return n, err
}

func TestAckThatIsLostOnItsWayIsSentAgain(t *testing.T) {
	server, _ := newRestartable(t)
	way := &leaky{to: server, lost: make(chan struct{}, 1)}
	conn, err := nats.Connect("", nats.InProcessServer(way), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b := on(t, conn, Config{})
	publish(t, b, messages("a", 2)...)
	group := subscribe(t, b, "g")
	d := nextOf(t, group)
	ack := []byte("+ACK")
	way.lose.Store(&ack)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.Ack(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-way.lost:
	default:
		t.Fatal("no ack was lost")
	}
	if d := nextOf(t, group); d.Event.ID != "a-1" || d.Attempt != 1 {
		t.Errorf("after it comes %s, attempt %d", d.Event.ID, d.Attempt)
	}
}

// An ack that a broken connection would have brought is not waited for.
func TestPublishEndsWithTheConnection(t *testing.T) {
	server, _ := newRestartable(t)
	way := &leaky{to: server, lost: make(chan struct{}, 1)}
	conn, err := nats.Connect("", nats.InProcessServer(way), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b := on(t, conn, Config{Timeout: time.Hour})
	publish(t, b, messages("a", 1)...)
	mark := []byte("PUB")
	way.lose.Store(&mark)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if receipts := b.PublishBatch(ctx, messages("b", 1)); !errors.Is(receipts[0].Err, broker.ErrUnavailable) || ctx.Err() != nil {
		t.Errorf("it ends with %v, want ErrUnavailable at once", receipts[0].Err)
	}
	publish(t, b, messages("b", 1)...)
}
