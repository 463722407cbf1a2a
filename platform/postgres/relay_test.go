package postgres_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// relayServer passes connections on to a Postgres server, so that tests can have
// it appear late and lose answers.
type relayServer struct {
	t        *testing.T
	network  string
	target   string
	listener net.Listener
	url      string // of the database, through the relay

	mu    sync.Mutex
	conns []net.Conn
	// cutAfter, once set, closes a connection as soon as the client has sent bytes
	// that hold it; what the server answers is lost.
	cutAfter []byte
	ready    chan struct{}
	once     sync.Once
}

// relay returns a relay in front of target that does not accept until open.
func relay(t *testing.T, target *url.URL) *relayServer {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &relayServer{t: t, network: "tcp", target: target.Host, listener: listener, ready: make(chan struct{})}
	through := *target
	query := through.Query()
	if dir := query.Get("host"); dir != "" { // a unix socket
		port := query.Get("port")
		if port == "" {
			port = "5432"
		}
		s.network, s.target = "unix", filepath.Join(dir, ".s.PGSQL."+port)
		query.Del("host")
		query.Del("port")
	}
	query.Set("sslmode", "disable")
	through.Host, through.RawQuery = listener.Addr().String(), strings.ReplaceAll(query.Encode(), "+", "%20")
	s.url = through.String()
	go s.accept()
	t.Cleanup(func() {
		s.open()
		listener.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, conn := range s.conns {
			conn.Close()
		}
	})
	return s
}

// open begins to serve; connections made before are refused.
func (s *relayServer) open() { s.once.Do(func() { close(s.ready) }) }

func (s *relayServer) cut(after string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutAfter = []byte(after)
}

func (s *relayServer) accept() {
	for {
		client, err := s.listener.Accept()
		if err != nil {
			return
		}
		select {
		case <-s.ready:
		default:
			client.Close()
			continue
		}
		server, err := net.Dial(s.network, s.target)
		if err != nil {
			client.Close()
			continue
		}
		s.mu.Lock()
		s.conns = append(s.conns, client, server)
		s.mu.Unlock()
		go func() {
			_, _ = io.Copy(client, server)
			client.Close()
		}()
		go s.upstream(server, client)
	}
}

func (s *relayServer) upstream(server, client net.Conn) {
	defer server.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		s.mu.Lock()
		lost := len(s.cutAfter) > 0 && bytes.Contains(buffer[:n], s.cutAfter)
		s.mu.Unlock()
		if lost {
			client.Close() // before the server can answer
		}
		if n > 0 {
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil || lost {
			return
		}
	}
}
