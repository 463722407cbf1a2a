package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// ErrForbidden is wrapped by every error about an address that the guard does not let
// through. Trying again does not help.
var ErrForbidden = errors.New("address is not allowed")

// Guard says where connections may go. The zero value lets HTTPS on port 443 to public
// addresses pass, and nothing else. It is safe for concurrent use once it is in use.
type Guard struct {
	// Allow lets addresses pass that are not public, such as loopback in development.
	Allow []netip.Prefix
	// Deny stops public addresses, such as those of this network itself. It wins over
	// Allow.
	Deny []netip.Prefix
	// Ports that may be dialled; empty: 443, and 80 with PlainHTTP.
	Ports []uint16
	// AnyPort lets every port pass.
	AnyPort bool
	// PlainHTTP lets URLs without TLS pass.
	PlainHTTP bool
	// Resolver resolves names; nil: that of the system.
	Resolver *net.Resolver
}

// CheckURL reports what about a URL is wrong, as far as it can be told without
// resolving its name: it must be absolute, https unless PlainHTTP, without user and
// fragment, with a port that may be dialled. Its errors say what to change.
func (g *Guard) CheckURL(u *url.URL) error {
	switch {
	case u.Scheme == "https" || u.Scheme == "http" && g.PlainHTTP:
	case u.Scheme == "http":
		return fmt.Errorf("%w: http is not secure, use https", ErrForbidden)
	default:
		return fmt.Errorf("%w: want an https URL", ErrForbidden)
	}
	host := u.Hostname()
	switch {
	case u.Opaque != "" || host == "":
		return fmt.Errorf("%w: want a URL with a host", ErrForbidden)
	case u.User != nil:
		return fmt.Errorf("%w: a URL is no place for credentials", ErrForbidden)
	case u.Fragment != "" || u.RawFragment != "":
		return fmt.Errorf("%w: a fragment is not sent, leave it out", ErrForbidden)
	}
	port, err := portOf(u)
	if err != nil {
		return err
	}
	if err := g.checkPort(port); err != nil {
		return err
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return g.checkAddress(address)
	}
	return nil
}

func portOf(u *url.URL) (uint16, error) {
	text := u.Port()
	switch {
	case text != "":
	case u.Scheme == "http":
		return 80, nil
	default:
		return 443, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%w: port %s does not exist", ErrForbidden, text)
	}
	return uint16(port), nil
}

func (g *Guard) checkPort(port uint16) error {
	switch {
	case g.AnyPort, slices.Contains(g.Ports, port):
		return nil
	case len(g.Ports) == 0 && (port == 443 || port == 80 && g.PlainHTTP):
		return nil
	}
	return fmt.Errorf("%w: port %d is not among those that may be dialled", ErrForbidden, port)
}

// checkAddress judges an address that is about to be dialled.
func (g *Guard) checkAddress(address netip.Addr) error {
	if address.Zone() != "" {
		return fmt.Errorf("%w: %s is on the local link", ErrForbidden, address)
	}
	// An IPv4 address in IPv6 clothes reaches the same machine.
	address = address.Unmap()
	within := func(p netip.Prefix) bool { return p.Contains(address) }
	switch {
	case slices.ContainsFunc(g.Deny, within):
		return fmt.Errorf("%w: %s is denied", ErrForbidden, address)
	case slices.ContainsFunc(g.Allow, within), public(address):
		return nil
	}
	return fmt.Errorf("%w: %s is not public", ErrForbidden, address)
}

// Dialer returns a dialer that connects only to where the guard lets it, within the
// timeout. It may be given to anything that dials.
func (g *Guard) Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:  timeout,
		Resolver: g.Resolver,
		// Called for each address that a name resolves to, right before connecting.
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			if network != "tcp4" && network != "tcp6" {
				return fmt.Errorf("%w: network %s", ErrForbidden, network)
			}
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %s is no address", ErrForbidden, address)
			}
			if err := g.checkPort(to.Port()); err != nil {
				return err
			}
			return g.checkAddress(to.Addr())
		},
	}
}

// Timeouts of a [Guard.Client]. All are required.
type Timeouts struct {
	Connect time.Duration // a TCP connection, with its name resolved
	TLS     time.Duration // the handshake
	Header  time.Duration // from the request to the header of the answer
	Total   time.Duration // everything, with the body
}

// Client returns a client that connects only to where the guard lets it. It follows no
// redirect, heeds no proxy of the environment, keeps no cookie and undoes no
// compression, and it reads at most 16 kB of header.
func (g *Guard) Client(timeouts Timeouts) *http.Client {
	return &http.Client{
		Timeout:       timeouts.Total,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            g.Dialer(timeouts.Connect).DialContext,
			TLSHandshakeTimeout:    timeouts.TLS,
			ResponseHeaderTimeout:  timeouts.Header,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           512,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
		},
	}
}
