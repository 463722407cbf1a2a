package gateway_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
)

// behind is a gateway in front of a service.
func behind(t *testing.T, path string, service http.HandlerFunc, change ...func(*gateway.Config, *gateway.Deps)) (*bundle, string) {
	t.Helper()
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	b := setupWith(t, map[string]string{"ORDER_URL": server.URL + path}, change...)
	return b, "http://" + b.serve(t).String()
}

func send(t *testing.T, method, url, body string, headers ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header[name] = append(request.Header[name], value) // in this very spelling
	}
	response, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestProxy(t *testing.T) {
	t.Parallel()

	t.Run("passes the request on and the response back", func(t *testing.T) {
		t.Parallel()
		_, url := behind(t, "/base", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.WriteHeader(http.StatusTeapot)
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
		})
		response := send(t, http.MethodGet, url+"/v1/orders/a%20b?x=1&y=%2F", "")
		if got := readAll(t, response.Body); response.StatusCode != http.StatusTeapot || got != "GET /base/v1/orders/a%20b?x=1&y=%2F " {
			t.Errorf("%d %q", response.StatusCode, got)
		}
		if response.Header.Get("ETag") != `"1"` {
			t.Errorf("header %v", response.Header)
		}
		response = send(t, http.MethodPost, url+"/v1/orders/1/notes", "hello")
		if got := readAll(t, response.Body); got != "POST /base/v1/orders/1/notes hello" {
			t.Errorf("%q", got)
		}
		if response := send(t, http.MethodHead, url+"/v1/orders/1", ""); response.StatusCode != http.StatusTeapot {
			t.Errorf("HEAD: %d", response.StatusCode)
		}
	})

	t.Run("what clients say of themselves is dropped", func(t *testing.T) {
		t.Parallel()
		got := make(chan *http.Request, 1)
		_, url := behind(t, "", func(_ http.ResponseWriter, r *http.Request) { got <- r.Clone(r.Context()) })
		host := strings.TrimPrefix(url, "http://")
		send(t, http.MethodGet, url+"/v1/orders/1", "",
			"Forwarded: for=1.1.1.1", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https",
			"X-Forwarded-Port: 1", "X-Forwarded-User: root", "X-Original-Forwarded-For: 1.1.1.1", "x-forwarded: 1", "X-FORWARDED-PREFIX: /x",
			"X-Real-IP: 1.1.1.1", "X-Real-Ip-Addr: 1", "X_Forwarded_For: 1.1.1.1", "X_User: root", "True-Client-Ip: 1", "X-Remote-User: root",
			"X-User: root", "X-Tenant: other", "X-Original-Url: /admin", "X-Countermand-Operation: 1",
			"Connection: Upgrade, X-Forwarded-For, X-Secret", "Upgrade: websocket", "X-Secret: 1", "Proxy-Authorization: x",
			"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Authorization: Bearer t", "Accept: */*", "Cookie: a=b",
			"Idempotency-Key: k1",
		)
		r := <-got
		names := slices.Sorted(maps.Keys(r.Header))
		want := []string{
			"Accept", "Authorization", "Cookie", "Idempotency-Key", "Traceparent", "User-Agent",
			"Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
		}
		if !slices.Equal(names, want) {
			t.Errorf("the service got %v\nwant %v", names, want)
		}
		if r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Header.Get("X-Forwarded-Host") != host || r.Header.Get("X-Forwarded-Proto") != "http" {
			t.Errorf("forwarding headers %v", r.Header)
		}
		if parent := r.Header.Get("Traceparent"); !strings.HasPrefix(parent, "00-0af7651916cd43dd8448eb211c80319c-") {
			t.Errorf("traceparent %q", parent)
		}
		if r.Host == host {
			t.Errorf("host %q is the gateway's own", r.Host)
		}
	})

	t.Run("a response streams", func(t *testing.T) {
		t.Parallel()
		more := make(chan struct{})
		_, url := behind(t, "", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "first ")
			_ = http.NewResponseController(w).Flush()
			<-more
			fmt.Fprint(w, strings.Repeat("x", 1<<20))
		})
		response := send(t, http.MethodGet, url+"/v1/orders/1", "")
		first := make([]byte, 6)
		if _, err := io.ReadFull(response.Body, first); err != nil || string(first) != "first " {
			t.Fatalf("%q, %v", first, err)
		}
		close(more)
		if n := len(readAll(t, response.Body)); n != 1<<20 {
			t.Errorf("%d bytes", n)
		}
	})

	t.Run("bytes of an encoded response are left alone", func(t *testing.T) {
		t.Parallel()
		_, url := behind(t, "", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, "as it is, "+r.Header.Get("Accept-Encoding"))
		})
		response := send(t, http.MethodGet, url+"/v1/orders/1", "", "Accept-Encoding: gzip")
		if got := readAll(t, response.Body); got != "as it is, gzip" || response.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%q %v", got, response.Header)
		}
	})
}

func TestProxyFailures(t *testing.T) {
	t.Parallel()

	t.Run("a service that is away is a 502", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := listener.Addr().String()
		listener.Close()
		b := setupWith(t, map[string]string{"ORDER_URL": "http://" + address + "/internal"})
		w := b.do(http.MethodGet, "/v1/orders/1", "")
		p := wantProblem(t, w, http.StatusBadGateway, "upstream_unavailable")
		if !p.Retriable || p.Instance != "/v1/orders/1" || strings.Contains(w.Body.String(), address) {
			t.Errorf("problem %s", w.Body)
		}
	})

	t.Run("a service that is silent is a 504", func(t *testing.T) {
		t.Parallel()
		table := strings.Replace(routes, "timeout: 2s", "timeout: 20ms", 1)
		release := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		t.Cleanup(server.Close)
		t.Cleanup(func() { close(release) })
		b := setup(t)
		parsed, err := gateway.ParseTable("routes.yaml", []byte(table), contracts(t), lookupIn(map[string]string{"ORDER_URL": server.URL}))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.gateway.SetTable(parsed); err != nil {
			t.Fatal(err)
		}
		if p := wantProblem(t, b.do(http.MethodGet, "/v1/orders/1", ""), http.StatusGatewayTimeout, "upstream_timeout"); !p.Retriable {
			t.Errorf("problem %+v", p)
		}
	})

	t.Run("a service that stops in the middle cuts the response", func(t *testing.T) {
		t.Parallel()
		_, url := behind(t, "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			fmt.Fprint(w, strings.Repeat("x", 100_000)) // enough to be on its way
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		response := send(t, http.MethodGet, url+"/v1/orders/1", "")
		if body, err := io.ReadAll(response.Body); err == nil {
			t.Errorf("%d bytes look whole", len(body))
		}
	})

	t.Run("the client's own faults are its own", func(t *testing.T) {
		t.Parallel()
		b, url := behind(t, "", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
		wantProblem(t, b.do(http.MethodPost, "/v1/orders/1/notes", strings.Repeat("x", 1<<20)), 413, "body_too_large")
		addr, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		head := "POST /v1/orders/1/notes HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
		if response, body := raw(t, addr, head+"5\r\nhello\r\nZZ\r\n"); response.StatusCode != 400 || !strings.Contains(body, "body_unreadable") {
			t.Errorf("%d %s", response.StatusCode, body)
		}
		if response, body := raw(t, addr, head+"50000\r\n"+strings.Repeat(" ", 0x50000)+"\r\n0\r\n\r\n"); response.StatusCode != 413 {
			t.Errorf("%d %s", response.StatusCode, body)
		}
	})
}

func TestSetTable(t *testing.T) {
	t.Parallel()
	connections := make(chan string, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections <- c.RemoteAddr().String()
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	env := map[string]string{"ORDER_URL": server.URL}
	b := setupWith(t, env)
	wantStatus(t, b.do(http.MethodGet, "/v1/orders/1", ""), http.StatusOK)

	table, err := gateway.ParseTable("routes.yaml",
		[]byte(strings.Replace(routes, "POST /v1/orders\n", "POST /v2/orders\n", 1)), contracts(t), lookupIn(env))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.SetTable(table); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, b.do(http.MethodPost, "/v2/orders", order), http.StatusAccepted)
	wantProblem(t, b.do(http.MethodPost, "/v1/orders", order), http.StatusMethodNotAllowed, "method_not_allowed")
	wantStatus(t, b.do(http.MethodGet, "/v1/orders/1", ""), http.StatusOK)
	if n := len(connections); n != 1 {
		t.Errorf("%d connections: the upstream's were not carried over", n)
	}
}
