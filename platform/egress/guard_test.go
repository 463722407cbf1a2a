package egress_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/countermand/countermand/platform/egress"
)

var quick = egress.Timeouts{Connect: 2 * time.Second, TLS: 2 * time.Second, Header: 2 * time.Second, Total: 4 * time.Second}

func TestAddressesThatAreNotPublicAreNotDialled(t *testing.T) {
	t.Parallel()
	g := egress.Guard{PlainHTTP: true, AnyPort: true}
	for _, host := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255",
		"192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192",
		"168.63.129.16", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
		"255.255.255.255", "192.88.99.1",
		"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
		"[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001::1]", "[2001:db8::1]", "[fe80::1]", "[fe80::1%25lo]",
		"[fec0::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[100::1]", "[5f00::1]", "[3fff::1]", "[4000::1]",
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse("http://" + host + ":8080/")
			if err != nil {
				t.Fatal(err)
			}
			if err := g.CheckURL(u); !errors.Is(err, egress.ErrForbidden) {
				t.Errorf("the URL passes: %v", err)
			}
			conn, err := g.Dialer(time.Second).DialContext(t.Context(), "tcp", net.JoinHostPort(u.Hostname(), "8080"))
			if err == nil {
				_ = conn.Close()
			}
			if !errors.Is(err, egress.ErrForbidden) {
				t.Errorf("dial: %v; want it forbidden", err)
			}
		})
	}
}

func TestOtherSpellingsOfAnAddressAreNotDialled(t *testing.T) {
	t.Parallel()
	g := egress.Guard{PlainHTTP: true, AnyPort: true, Resolver: &net.Resolver{PreferGo: true}}
	loopback := listener(t)
	for _, host := range []string{"2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.1.", "localhost", "LOCALHOST"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			conn, err := g.Dialer(2*time.Second).DialContext(t.Context(), "tcp", net.JoinHostPort(host, loopback))
			if err == nil {
				_ = conn.Close()
				t.Errorf("%s was dialled", host)
			}
		})
	}
}

func TestPublicAddressesPass(t *testing.T) {
	t.Parallel()
	var g egress.Guard
	for _, host := range []string{"1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "198.20.0.1", "[2606:4700:4700::1111]", "[2a00:1450::1]", "example.com"} {
		u, err := url.Parse("https://" + host + "/hook?a=b")
		if err != nil {
			t.Fatal(err)
		}
		if err := g.CheckURL(u); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	strict := &egress.Guard{}
	plain := &egress.Guard{PlainHTTP: true}
	some := &egress.Guard{Ports: []uint16{8443}}
	for _, c := range []struct {
		guard *egress.Guard
		url   string
		want  string // in the error; empty: it passes
	}{
		{strict, "https://example.com/", ""},
		{strict, "http://example.com/", "use https"},
		{strict, "https://example.com:8443/", "port 8443"},
		{strict, "https://example.com:0/", "port 0"},
		{strict, "https://example.com:99999/", "port 99999"},
		{strict, "https://user:secret@example.com/", "credentials"},
		{strict, "https://example.com/#there", "fragment"},
		{strict, "https:///path", "host"},
		{strict, "https:example.com", "host"},
		{strict, "ftp://example.com/", "https URL"},
		{strict, "file:///etc/passwd", "https URL"},
		{strict, "//example.com/", "https URL"},
		{strict, "gopher://127.0.0.1:6379/_", "https URL"},
		{plain, "http://example.com/", ""},
		{plain, "http://example.com:443/", ""},
		{plain, "http://example.com:22/", "port 22"},
		{some, "https://example.com:8443/", ""},
		{some, "https://example.com/", "port 443"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		err = c.guard.CheckURL(u)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.url, err)
		case c.want != "" && (!errors.Is(err, egress.ErrForbidden) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want an error with %q", c.url, err, c.want)
		}
	}
}

func TestAllowLetsLoopbackPassAndDenyWins(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(server.Close)
	loopback := netip.MustParsePrefix("127.0.0.0/8")

	allowed := egress.Guard{PlainHTTP: true, AnyPort: true, Allow: []netip.Prefix{loopback}}
	if status, err := get(t, &allowed, server.URL); err != nil || status != http.StatusNoContent {
		t.Errorf("allowed: %d, %v", status, err)
	}
	denied := allowed
	denied.Deny = []netip.Prefix{loopback}
	if _, err := get(t, &denied, server.URL); !errors.Is(err, egress.ErrForbidden) {
		t.Errorf("denied: %v", err)
	}
	port := allowed
	port.AnyPort = false
	if _, err := get(t, &port, server.URL); !errors.Is(err, egress.ErrForbidden) {
		t.Errorf("a port that may not be dialled: %v", err)
	}
}

// The name passes every look that is taken at it before the connection is made, and
// only then turns out to be loopback.
func TestANameThatIsReboundIsNotDialled(t *testing.T) {
	t.Parallel()
	reached := new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	names := nameServer(t)
	g := egress.Guard{PlainHTTP: true, AnyPort: true, Resolver: names.resolver()}

	names.set([4]byte{93, 184, 215, 14})
	first, err := g.Resolver.LookupNetIP(t.Context(), "ip4", "rebind.test")
	if err != nil || len(first) != 1 || first[0] != netip.MustParseAddr("93.184.215.14") {
		t.Fatalf("first look: %v, %v", first, err)
	}
	names.set([4]byte{127, 0, 0, 1})
	if _, err := get(t, &g, "http://rebind.test:"+port+"/"); !errors.Is(err, egress.ErrForbidden) {
		t.Errorf("rebound: %v", err)
	}
	names.set([4]byte{169, 254, 169, 254}, [4]byte{127, 0, 0, 1}) // every address is judged, not the first
	if _, err := get(t, &g, "http://rebind.test:"+port+"/"); !errors.Is(err, egress.ErrForbidden) {
		t.Errorf("two addresses: %v", err)
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the server was reached %d times", n)
	}
	g.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // the rig does reach it when it may
	names.set([4]byte{127, 0, 0, 1})
	if _, err := get(t, &g, "http://rebind.test:"+port+"/"); err != nil || reached.Load() != 1 {
		t.Errorf("allowed: %v, reached %d times", err, reached.Load())
	}
}

func TestRedirectsAndProxiesAreNotFollowed(t *testing.T) {
	reached := new(atomic.Int64)
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(inner.Close)
	server := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	t.Setenv("HTTP_PROXY", inner.URL)
	t.Setenv("http_proxy", inner.URL)
	g := egress.Guard{PlainHTTP: true, AnyPort: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	if status, err := get(t, &g, server.URL); err != nil || status != http.StatusTemporaryRedirect {
		t.Errorf("redirect: %d, %v", status, err)
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the redirect or the proxy was followed %d times", n)
	}
}

func get(t *testing.T, g *egress.Guard, address string) (int, error) {
	t.Helper()
	client := g.Client(quick)
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_ = response.Body.Close()
	return response.StatusCode, nil
}

// listener opens a loopback port, which nothing is to be connected to.
func listener(t *testing.T) (port string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// names is a name server that gives every name the same addresses.
type names struct {
	at        string
	addresses atomic.Pointer[[][4]byte]
}

func (n *names) set(addresses ...[4]byte) { n.addresses.Store(&addresses) }

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", n.at)
	}}
}

func nameServer(t *testing.T) *names {
	t.Helper()
	socket, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{at: socket.LocalAddr().String()}
	n.set()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 512)
		for {
			size, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer, err := n.answer(buffer[:size]); err == nil {
				_, _ = socket.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return n
}

func (n *names) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		if q.Type != dnsmessage.TypeA {
			continue
		}
		for _, address := range *n.addresses.Load() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 0},
				Body:   &dnsmessage.AResource{A: address},
			})
		}
	}
	return m.Pack()
}
