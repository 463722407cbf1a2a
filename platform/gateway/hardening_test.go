package gateway_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/gateway"
)

// wiretap is a service that answers 200 to everything and keeps the bytes that came.
type wiretap struct {
	net.Listener
	mu   sync.Mutex
	seen []string
}

func newWiretap(t *testing.T) *wiretap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wiretap{Listener: listener}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.answer(conn) })
		}
	})
	t.Cleanup(func() { listener.Close(); all.Wait() })
	return w
}

// answer takes one request of a connection, byte for byte.
func (w *wiretap) answer(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	var seen strings.Builder
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &seen)))
	if err == nil {
		_, err = io.Copy(io.Discard, request.Body)
	}
	w.mu.Lock()
	w.seen = append(w.seen, seen.String())
	w.mu.Unlock()
	if err == nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}
}

// took returns what came since it was last asked.
func (w *wiretap) took() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// shape is a request as bytes, and what must become of it.
type shape struct {
	name    string
	request string
	status  int
	code    string // of the problem; empty when net/http answers in plain text, or nobody minds
	// has and lacks are what goes on to the service, in lower case.
	has, lacks []string
}

const (
	note  = "POST /v1/orders/7/notes HTTP/1.1\r\nHost: shop.example\r\n"
	read  = "GET /v1/orders/7 HTTP/1.1\r\nHost: shop.example\r\n"
	small = "5\r\nhello\r\n0\r\n\r\n"
)

func sendOrder(body string) string {
	return fmt.Sprintf("POST /v1/orders HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// shapes are the requests that servers in a row have been known to read differently.
var shapes = []shape{
	// Framing.
	{
		name: "a length and chunks", request: note + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + small,
		status: 200, has: []string{"transfer-encoding: chunked", "\r\nhello\r\n"}, lacks: []string{"content-length"},
	},
	{name: "an unknown transfer coding", request: note + "Transfer-Encoding: xchunked\r\n\r\n" + small, status: 501},
	{name: "a transfer coding twice", request: note + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + small, status: 501},
	{name: "a coding before chunked", request: note + "Transfer-Encoding: gzip, chunked\r\n\r\n" + small, status: 501},
	{name: "two lengths that differ", request: note + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", status: 400},
	{name: "a length with a sign", request: note + "Content-Length: +5\r\n\r\nhello", status: 400},
	{name: "space before the colon", request: note + "Content-Length : 5\r\n\r\nhello", status: 400},
	{name: "a chunk size without its return", request: note + "Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", status: 400, code: "body_unreadable"},
	{name: "a chunk that is cut short", request: note + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX", status: 400, code: "body_unreadable"},
	{name: "a chunk size with a sign", request: note + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", status: 400, code: "body_unreadable"},
	{name: "trailers", request: note + "Transfer-Encoding: chunked\r\nTrailer: X-Tenant\r\n\r\n5\r\nhello\r\n0\r\nX-Tenant: evil\r\n\r\n", status: 200, lacks: []string{"trailer", "evil"}},
	// Head.
	{name: "two hosts", request: read + "Host: other.example\r\n\r\n", status: 400},
	{name: "no host", request: "GET /v1/orders/7 HTTP/1.1\r\n\r\n", status: 400},
	{name: "NUL in a value", request: read + "X-A: a\x00b\r\n\r\n", status: 400},
	{name: "a return in a value", request: read + "X-A: a\rb\r\n\r\n", status: 400},
	{name: "a method that is no token", request: "G@T /v1/orders/7 HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400},
	{name: "bad percent-encoding", request: "GET /v1/orders/%zz HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400},
	{
		name: "lines that end without their return", request: "GET /v1/orders/7 HTTP/1.1\nHost: shop.example\nX-A: b\n\n",
		status: 200, has: []string{"get /v1/orders/7 http/1.1\r\n", "\r\nx-a: b\r\n"},
	},
	{name: "a folded line", request: read + "X-A: one\r\n  two\r\n\r\n", status: 200, has: []string{"\r\nx-a: one two\r\n"}},
	{name: "a version of tomorrow", request: "GET /v1/orders/7 HTTP/1.2\r\nHost: shop.example\r\n\r\n", status: 200, has: []string{"get /v1/orders/7 http/1.1\r\n"}},
	{name: "large headers", request: read + "X-A: " + strings.Repeat("a", 32<<10) + "\r\n\r\n", status: 431},
	{name: "many headers", request: read + strings.Repeat("X-A: b\r\n", 101) + "\r\n", status: 431, code: "too_many_headers"},
	{name: "many small headers", request: read + strings.Repeat("a:\r\n", 1200) + "\r\n", status: 431, code: "too_many_headers"},
	// Paths.
	{name: "dot segments", request: "GET /v1/../admin HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400, code: "bad_path"},
	{name: "an empty segment", request: "GET //admin HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400, code: "bad_path"},
	{name: "encoded dots", request: "GET /v1/orders/%2e%2e HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400, code: "bad_path"},
	{name: "an encoded slash", request: "GET /v1/orders/..%2fadmin HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400, code: "bad_path"},
	{name: "a backslash", request: `GET /v1/orders/a\b HTTP/1.1` + "\r\nHost: shop.example\r\n\r\n", status: 400, code: "bad_path"},
	{name: "NUL in the path", request: "GET /v1/orders/%00 HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400, code: "bad_path"},
	{name: "2,000 parameters", request: "GET /v1/orders/7?" + strings.Repeat("a=b&", 2000) + " HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 400, code: "too_many_parameters"},
	{name: "another host in the request line", request: "GET http://other.example/v1/orders/7 HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 421, code: "misdirected"},
	{name: "this host in the request line", request: "GET http://shop.example/v1/orders/7 HTTP/1.1\r\nHost: shop.example\r\n\r\n", status: 200, has: []string{"get /v1/orders/7 http/1.1\r\n"}},
	{name: "another host", request: "GET /v1/orders/7 HTTP/1.1\r\nHost: other.example\r\n\r\n", status: 421, code: "misdirected"},
	{name: "this host, in other letters and with a port", request: "GET /v1/orders/7 HTTP/1.1\r\nHost: Shop.Example.:8080\r\n\r\n", status: 200},
	// Who says who it is.
	{
		name: "names of those who are trusted", status: 200,
		request: read + "X-Real-IP: evil\r\nX_Forwarded_For: evil\r\nX-Forwarded-For: evil\r\nForwarded: for=evil\r\nX-Original-Forwarded-For: evil\r\n" +
			"X-Tenant: evil\r\nX-User-Id: evil\r\nRemote-User: evil\r\nTrue-Client-IP: evil\r\nCountermand-Tenant: evil\r\nX-Original-URL: /evil\r\n\r\n",
		has: []string{"x-forwarded-for: 127.0.0.1\r\n"}, lacks: []string{"evil"},
	},
	{
		name: "a connection option that takes what the gateway sets", status: 200,
		request: read + "Connection: X-Forwarded-For, Via, X-A\r\nX-A: b\r\n\r\n",
		has:     []string{"x-forwarded-for: 127.0.0.1\r\n", "via: 1.1 countermand\r\n"}, lacks: []string{"x-a"},
	},
	// Bodies.
	{name: "a field twice", request: sendOrder(`{"customer":"a","customer":"b"}`), status: 400, code: "malformed_json"},
	{name: "a field in other letters", request: sendOrder(strings.Replace(order, "customer", "CUSTOMER", 1)), status: 422, code: "invalid_request"},
	{name: "an unknown field", request: sendOrder(strings.Replace(order, "{", `{"admin":true,`, 1)), status: 422, code: "invalid_request"},
	{name: "bytes that are no UTF-8", request: sendOrder("{\"customer\":\"\xff\"}"), status: 400, code: "malformed_json"},
	{name: "a number beyond 2^53", request: sendOrder(`{"quantity":9007199254740993}`), status: 400, code: "malformed_json"},
	{name: "more after the document", request: sendOrder(order + "{}"), status: 400, code: "malformed_json"},
	{name: "deeper than 64", request: sendOrder(strings.Repeat("[", 65) + strings.Repeat("]", 65)), status: 400, code: "malformed_json"},
	{name: "10,000 deep", request: sendOrder(strings.Repeat("[", 10_000)), status: 400, code: "malformed_json"},
	{name: "a coding", request: strings.Replace(sendOrder(order), "Content-Length", "Content-Encoding: gzip\r\nContent-Length", 1), status: 415, code: "unsupported_encoding"},
}

func TestShapesOfRequests(t *testing.T) {
	t.Parallel()
	for _, one := range shapes {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			service := newWiretap(t)
			b := setupWith(t, map[string]string{"ORDER_URL": "http://" + service.Addr().String()},
				func(c *gateway.Config, _ *gateway.Deps) { c.Hosts = []string{"shop.example"} })
			response, body := raw(t, b.serve(t), one.request)
			if n := len(b.broker.messages()); n != 0 {
				t.Errorf("%d commands got through", n)
			}
			seen := service.took()
			if response.StatusCode != one.status {
				t.Fatalf("status %d, want %d: %s", response.StatusCode, one.status, body)
			}
			if one.code != "" {
				var p gateway.Problem
				if err := json.Unmarshal([]byte(body), &p); err != nil || p.Code != one.code {
					t.Errorf("body %s, want the code %s", body, one.code)
				}
			}
			if response.Header.Get("Location") != "" {
				t.Error("it is redirected")
			}
			if one.status != http.StatusOK {
				for _, cut := range seen { // a body may break off after its beginning went on, never whole
					if strings.HasSuffix(cut, "\r\n0\r\n\r\n") {
						t.Errorf("it went on to the service: %q", cut)
					}
				}
				return
			}
			if len(seen) != 1 {
				t.Fatalf("the service got %d requests: %q", len(seen), seen)
			}
			out := strings.ToLower(seen[0])
			for _, part := range one.has {
				if !strings.Contains(out, part) {
					t.Errorf("what goes on lacks %q: %q", part, out)
				}
			}
			for _, part := range one.lacks {
				if strings.Contains(out, part) {
					t.Errorf("what goes on has %q: %q", part, out)
				}
			}
			if strings.Contains(strings.ReplaceAll(out, "\r\n", ""), "\n") {
				t.Errorf("a bare line feed goes on: %q", out)
			}
		})
	}
}

// Without names of its own a gateway cannot know what a host in the request line means.
func TestAGatewayWithoutNames(t *testing.T) {
	t.Parallel()
	service := newWiretap(t)
	b := setupWith(t, map[string]string{"ORDER_URL": "http://" + service.Addr().String()})
	addr := b.serve(t)
	if response, _ := raw(t, addr, "GET http://other.example/v1/orders/7 HTTP/1.1\r\nHost: shop.example\r\n\r\n"); response.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("status %d", response.StatusCode)
	}
	if response, _ := raw(t, addr, read+"\r\n"); response.StatusCode != http.StatusOK {
		t.Errorf("status %d", response.StatusCode)
	}
}

func TestASlowHeadIsCutOff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	addr := b.serve(t, func(s *http.Server) {
		if s.ReadHeaderTimeout != 5*time.Second || s.ReadTimeout != 30*time.Second || s.IdleTimeout != time.Minute || s.MaxHeaderBytes != 16<<10 || s.HTTP2.MaxConcurrentStreams != 100 {
			t.Errorf("the server's limits are %+v", s)
		}
		s.ReadHeaderTimeout = 100 * time.Millisecond
	})
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /v1/orders/7 HTTP/1.1\r\nHost: shop"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 0 {
		t.Errorf("answered %q, %v; want the connection closed", answer, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := gateway.LimitConnections(listener, gateway.ConnectionLimits{PerAddress: 2})
	server := gateway.NewServer("", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	done := make(chan error, 1)
	go func() { done <- server.Serve(limited) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	works := func(conn net.Conn) bool {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			return false
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && response.StatusCode == http.StatusOK
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	first, second := dial(), dial()
	if !works(first) || !works(second) {
		t.Fatal("two connections are allowed")
	}
	if works(dial()) {
		t.Error("a third connection of one address is served")
	}
	first.Close()
	for limit := time.Now().Add(10 * time.Second); !works(dial()); {
		if time.Now().After(limit) {
			t.Fatal("a connection that was closed still counts")
		}
	}
	if !works(second) {
		t.Error("a connection that was there is gone")
	}
}
