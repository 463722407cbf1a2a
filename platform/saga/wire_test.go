package saga_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// mishap befalls the next questions to the database that hold its mark: they or
// their answers are lost, or something else happens before they get there.
type mishap struct {
	mu        sync.Mutex
	mark      string
	times     int
	question  bool   // is lost, else the answer
	meanwhile func() // happens, and nothing is lost
}

// arm has it befall so many questions; connections that are closing read it, too.
func (m *mishap) arm(mark string, times int, question bool, meanwhile func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark, m.times, m.question, m.meanwhile = mark, times, question, meanwhile
}

// none ends it, and reports whether it has happened.
func (m *mishap) none() (happened bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	happened = m.mark != "" && m.times == 0
	m.mark, m.times, m.question, m.meanwhile = "", 0, false, nil
	return happened
}

func (m *mishap) befalls(data []byte) (lose, question bool, meanwhile func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.times == 0 || !strings.Contains(string(data), m.mark) {
		return false, false, nil
	}
	m.times--
	return m.meanwhile == nil, m.question, m.meanwhile
}

// wired is a connection with a mishap.
type wired struct {
	net.Conn
	mishap *mishap
	hit    atomic.Bool
}

func (c *wired) Write(data []byte) (int, error) {
	lose, question, meanwhile := c.mishap.befalls(data)
	if meanwhile != nil {
		meanwhile()
	}
	if lose && question {
		c.Close()
		return 0, io.ErrClosedPipe
	}
	if lose {
		c.hit.Store(true)
	}
	return c.Conn.Write(data)
}

func (c *wired) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	if c.hit.Load() && n > 0 { // so the server has done what it was asked
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// wire returns another pool on the database of b, over connections with a mishap.
func (b *bench) wire(m *mishap) *pgxpool.Pool {
	b.t.Helper()
	config := b.pool.Config()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &wired{Conn: conn, mishap: m}, err
	}
	pool, err := pgxpool.NewWithConfig(b.t.Context(), config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(pool.Close)
	return pool
}
