package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestWhatIsNotThereIsAProblemDocument(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/v1", "/v1/order", "/v1/orders/a/b", "/v2/orders", "/admin/v1/sagas", "/metrics", "/debug/pprof/"} {
		problem(t, get(t, path), http.StatusNotFound, "not_found")
	}
}

func TestAMethodThatIsNotAllowedIsAProblemDocument(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ method, path, allow string }{
		{http.MethodGet, "/v1/orders", "POST"},
		{http.MethodPut, "/v1/orders", "POST"},
		{http.MethodDelete, "/v1/inventory/TEA-001", "GET"},
		{http.MethodPost, "/v1/payments/1", "GET"},
		{http.MethodPatch, "/v1/operations/1", "GET"},
		{"BREW", "/v1/orders", "POST"},
	} {
		answer := request(t, test.method, test.path, "")
		problem(t, answer, http.StatusMethodNotAllowed, "method_not_allowed")
		if allow := answer.Header.Get("Allow"); !strings.Contains(allow, test.allow) {
			t.Errorf("Allow of %s %s is %q, want %s in it", test.method, test.path, allow, test.allow)
		}
	}
}

// TestAPathWithTwoReadingsIsRefused sends what clients would clean up, byte for
// byte: it must be refused before it is routed, and never redirected.
func TestAPathWithTwoReadingsIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/v1/../admin/v1/sagas", "//v1/orders", "/v1//orders", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/orders/..;/x",
		`/v1/orders\x`, "/v1/orders/%00", "/v1/orders/%252e", "/v1/./orders",
	} {
		if status, head := raw(t, "GET "+path+" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"); status != http.StatusBadRequest {
			t.Errorf("GET %s answered %s, want 400", path, head)
		}
	}
}

// TestFramingThatServersReadDifferentlyIsRefused sends requests in which two
// servers could see different borders. Accepting one reading is allowed by none.
func TestFramingThatServersReadDifferentlyIsRefused(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"two lengths":             "POST /v1/orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"a signed length":         "POST /v1/orders HTTP/1.1\r\nHost: shop\r\nContent-Length: +2\r\n\r\n{}",
		"an unknown coding":       "POST /v1/orders HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a space before a colon":  "GET /v1/inventory/TEA-001 HTTP/1.1\r\nHost : shop\r\n\r\n",
		"two hosts":               "GET /v1/inventory/TEA-001 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"no host":                 "GET /v1/inventory/TEA-001 HTTP/1.1\r\n\r\n",
		"a broken chunk":          "POST /v1/orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		"headers without end":     "GET /v1/inventory/TEA-001 HTTP/1.1\r\nHost: shop\r\nX-Long: " + strings.Repeat("x", 32<<10) + "\r\n\r\n",
		"a hundred and one lines": "GET /v1/inventory/TEA-001 HTTP/1.1\r\nHost: shop\r\n" + strings.Repeat("X-A: b\r\n", 101) + "\r\n",
		"a hundred and one parameters": "GET /v1/inventory/TEA-001?" + strings.TrimSuffix(strings.Repeat("a=b&", 101), "&") +
			" HTTP/1.1\r\nHost: shop\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if status, head := raw(t, request); status < 400 || status == http.StatusNotFound {
				t.Errorf("answered %s, want a refusal", head)
			}
		})
	}
}

// raw sends bytes to the public listener and returns the status of the answer,
// and its first line.
func raw(t *testing.T, request string) (status int, head string) {
	t.Helper()
	at, err := url.Parse(shop.Base)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	head, err = bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if _, err := fmt.Sscanf(head, "HTTP/1.1 %d", &status); err != nil {
		t.Fatalf("answered %q", head)
	}
	return status, strings.TrimSpace(head)
}
