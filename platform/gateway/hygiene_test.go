package gateway_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/gateway"
)

// serve runs the gateway behind its own server, on a port of its own.
func (b *bundle) serve(t *testing.T, change ...func(*http.Server)) net.Addr {
	t.Helper()
	server := gateway.NewServer("", b.gateway, nil)
	for _, change := range change {
		change(server)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return listener.Addr()
}

// raw writes bytes to the server and returns its first response.
func raw(t *testing.T, addr net.Addr, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestRequestsThatAreNotRouted(t *testing.T) {
	reached := 0
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	t.Cleanup(service.Close)
	b := setupWith(t, map[string]string{"ORDER_URL": service.URL})
	addr := b.serve(t)

	get := func(target string, headers ...string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: shop.example\r\n" + strings.Join(headers, "") + "\r\n"
	}
	manyHeaders := make([]string, 101)
	for i := range manyHeaders {
		manyHeaders[i] = fmt.Sprintf("X-H%d: 1\r\n", i)
	}
	for name, row := range map[string]struct {
		request string
		status  int
		code    string // empty when net/http answers, in plain text
	}{
		"dot segments":                 {get("/v1/orders/../admin"), 400, "bad_path"},
		"dot segment at the end":       {get("/v1/orders/.."), 400, "bad_path"},
		"single dot":                   {get("/v1/./orders/1"), 400, "bad_path"},
		"dot segment with parameters":  {get("/v1/orders/..;/admin"), 400, "bad_path"},
		"encoded dot segments":         {get("/v1/orders/%2e%2e/admin"), 400, "bad_path"},
		"encoded dots, upper case":     {get("/v1/orders/%2E%2E"), 400, "bad_path"},
		"encoded slash":                {get("/v1/orders/..%2fadmin"), 400, "bad_path"},
		"encoded slash alone":          {get("/v1/orders/a%2Fb"), 400, "bad_path"},
		"backslash":                    {get(`/v1/orders/..\admin`), 400, "bad_path"},
		"encoded backslash":            {get("/v1/orders/%5c"), 400, "bad_path"},
		"NUL":                          {get("/v1/orders/%00"), 400, "bad_path"},
		"line break":                   {get("/v1/orders/%0d%0aX:y"), 400, "bad_path"},
		"double slash":                 {get("//v1/orders/1"), 400, "bad_path"},
		"double slash inside":          {get("/v1//orders/1"), 400, "bad_path"},
		"encoded twice":                {get("/v1/orders/%252e%252e"), 400, "bad_path"},
		"not UTF-8":                    {get("/v1/orders/%ff"), 400, "bad_path"},
		"slash hidden by a bad byte":   {get(`/v1/orders/%2f"`), 400, "bad_path"},
		"absolute form":                {get("http://shop.example/nowhere"), 421, "misdirected"},
		"absolute form with dots":      {get("http://shop.example/v1/../x"), 400, "bad_path"},
		"trailing slash":               {get("/v1/orders/"), 404, "not_found"},
		"too deep":                     {get("/v1/orders/1/2"), 404, "not_found"},
		"the root":                     {get("/"), 404, "not_found"},
		"101 header fields":            {get("/v1/orders/1", manyHeaders...), 431, "too_many_headers"},
		"101 parameters":               {get("/v1/orders/1?" + strings.Repeat("a=b&", 100) + "a"), 400, "too_many_parameters"},
		"large headers":                {get("/v1/orders/1", "X: "+strings.Repeat("x", 32<<10)+"\r\n"), 431, ""},
		"bad percent-encoding":         {get("/v1/orders/%zz"), 400, ""},
		"two lengths":                  {get("/v1/orders/1", "Content-Length: 1\r\nContent-Length: 2\r\n"), 400, ""},
		"unknown transfer encoding":    {get("/v1/orders/1", "Transfer-Encoding: xchunked\r\n"), 501, ""},
		"no host":                      {"GET /v1/orders/1 HTTP/1.1\r\n\r\n", 400, ""},
		"method not allowed":           {strings.Replace(get("/v1/operations/1"), "GET", "PUT", 1), 405, "method_not_allowed"},
		"method not known":             {strings.Replace(get("/v1/operations/1"), "GET", "BREW", 1), 405, "method_not_allowed"},
		"method not known, nowhere":    {strings.Replace(get("/nowhere"), "GET", "BREW", 1), 404, "not_found"},
		"method of another route only": {strings.Replace(get("/v1/orders/1"), "GET", "POST", 1), 405, "method_not_allowed"},
		"asterisk":                     {strings.Replace(get("*"), "GET", "PUT", 1), 400, ""},
		"a command cut short": {
			"POST /v1/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"cus\r\nZZ\r\n",
			400, "body_unreadable",
		},
		"a chunked command that is too large": {
			"POST /v1/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n50000\r\n" +
				strings.Repeat(" ", 0x50000) + "\r\n0\r\n\r\n",
			413, "body_too_large",
		},
		"a command announced as too large": {
			"POST /v1/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n",
			413, "body_too_large",
		},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := raw(t, addr, row.request)
			if response.StatusCode != row.status {
				t.Fatalf("status %d, want %d: %s", response.StatusCode, row.status, body)
			}
			if row.code != "" {
				var p gateway.Problem
				if err := json.Unmarshal([]byte(body), &p); err != nil || p.Code != row.code {
					t.Errorf("body %s, want code %s", body, row.code)
				}
			}
			if location := response.Header.Get("Location"); location != "" {
				t.Errorf("redirected to %s", location)
			}
		})
	}
	if reached != 0 || len(b.broker.messages()) != 0 {
		t.Errorf("%d requests and %d commands got through", reached, len(b.broker.messages()))
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for path, allow := range map[string]string{
		"/v1/orders": "POST, PUT", "/v1/orders/1": "GET, HEAD",
		"/v1/operations": "GET, HEAD", "/v1/operations/1/events": "GET, HEAD", "/v1/commands/x": "POST",
	} {
		w := b.do(http.MethodDelete, path, "")
		wantProblem(t, w, http.StatusMethodNotAllowed, "method_not_allowed")
		wantHeader(t, w, "Allow", allow)
	}
	w := b.do(http.MethodPut, "/v1/operations/1", "")
	wantProblem(t, w, http.StatusMethodNotAllowed, "method_not_allowed")
	wantHeader(t, w, "Allow", "GET, HEAD, DELETE")
}

// TestServerDeadlines uses real servers whose deadlines are shorter than what is
// asked of them.
func TestServerDeadlines(t *testing.T) {
	t.Parallel()
	const readTimeout = 200 * time.Millisecond

	t.Run("a wait outlives the read timeout", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.PollInterval = 2 * readTimeout })
		addr := b.serve(t, func(s *http.Server) { s.ReadTimeout = readTimeout })
		response, body := raw(t, addr, fmt.Sprintf(
			"POST /v1/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nPrefer: wait=1\r\nContent-Length: %d\r\n\r\n%s", len(order), order))
		if response.StatusCode != http.StatusAccepted {
			t.Errorf("status %d: %s", response.StatusCode, body)
		}
		if asked := b.operations.lookUps(); asked < 2 {
			t.Errorf("%d lookups: the wait was cut short", asked)
		}
	})

	t.Run("a body that does not arrive is a 408", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		addr := b.serve(t, func(s *http.Server) { s.ReadTimeout = readTimeout })
		response, body := raw(t, addr, "POST /v1/orders HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		if response.StatusCode != http.StatusRequestTimeout || !strings.Contains(body, "request_timeout") {
			t.Errorf("status %d: %s", response.StatusCode, body)
		}
	})

	t.Run("a deadline does not outlive its request", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.WriteTimeout = readTimeout })
		addr := b.serve(t)
		client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
		t.Cleanup(client.CloseIdleConnections)
		for range 2 {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr.String()+"/v1/orders", strings.NewReader(order))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Prefer", "wait=1") // longer than the deadline that the request began with
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusAccepted {
				t.Errorf("status %d", response.StatusCode)
			}
		}
	})
	t.Run("nor does it keep a client from being told to go on", func(t *testing.T) {
		t.Parallel()
		const writeTimeout = 50 * time.Millisecond
		b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.WriteTimeout = writeTimeout })
		addr := b.serve(t)
		client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, ExpectContinueTimeout: time.Minute}}
		t.Cleanup(client.CloseIdleConnections)
		for _, expect := range []string{"", "100-continue"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr.String()+"/v1/orders", strings.NewReader(order))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			if expect != "" {
				time.Sleep(2 * writeTimeout) // the deadline that the first answer had is over
				request.Header.Set("Expect", expect)
			}
			request.GetBody = nil // so that a connection that breaks is an error, not another try
			response, err := client.Do(request)
			if err != nil {
				t.Fatalf("with Expect %q: %v", expect, err)
			}
			readAll(t, response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusAccepted {
				t.Errorf("status %d", response.StatusCode)
			}
		}
	})
}
