package gateway

import (
	"net"
	"sync"
)

// ConnectionLimits bound the connections of a listener; 0 means no bound.
type ConnectionLimits struct {
	// Total is how many there may be.
	Total int
	// PerAddress is how many of them one address may have. Leave it at 0 behind a load
	// balancer, which has all of them.
	PerAddress int
}

// LimitConnections returns a listener that closes connections beyond the limits as soon
// as they are made, before anything is read of them.
func LimitConnections(listener net.Listener, limits ConnectionLimits) net.Listener {
	if limits == (ConnectionLimits{}) {
		return listener
	}
	return &limitedListener{Listener: listener, limits: limits, open: make(map[string]int)}
}

type limitedListener struct {
	net.Listener
	limits ConnectionLimits

	mu    sync.Mutex
	total int
	open  map[string]int // by address
}

// Accept returns the next connection within the limits.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := addressOf(conn)
		if l.enter(address) {
			return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(address) })}, nil
		}
		_ = conn.Close() // there is nobody to tell
	}
}

func addressOf(conn net.Conn) string {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	return conn.RemoteAddr().String()
}

func (l *limitedListener) enter(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limits.Total > 0 && l.total >= l.limits.Total || l.limits.PerAddress > 0 && l.open[address] >= l.limits.PerAddress {
		return false
	}
	l.total++
	l.open[address]++
	return true
}

func (l *limitedListener) leave(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.open[address]--; l.open[address] == 0 {
		delete(l.open, address)
	}
}

// limitedConn counts until it is closed.
type limitedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
