package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"
)

const (
	upstreamTimeoutDefault = 10 * time.Second
	upstreamDialTimeout    = 2 * time.Second
	// upstreamIdleTimeout is well under the idle timeout of servers, so that a
	// kept connection is seldom closed just as it is used again.
	upstreamIdleTimeout    = 30 * time.Second
	upstreamIdlePerHostMax = 256
	upstreamHeaderBytesMax = 64 << 10
	proxyBufferBytes       = 32 << 10
	receivedBy             = "1.1 countermand"
)

var errUpstreamTimeout = errors.New("the upstream was silent for too long")

// proxyRoute is the target of a route of kind proxy.
type proxyRoute struct {
	upstream string
	guards   []guard
}

func (p proxyRoute) leads() string { return p.upstream }

func readProxyRoute(t *tableReader, rt *route, m mapping) target {
	name := m.required("upstream")
	if name == "" {
		return nil
	}
	if _, known := t.table.upstreams[name]; !known {
		m.failAt(m.at("upstream"), "upstream: %q is unknown, %s", name, instead(sortedKeys(t.table.upstreams)))
	}
	return proxyRoute{name, rt.guards}
}

func (p proxyRoute) serve(g *Gateway, s *snapshot) handler {
	pass := s.upstreams[p.upstream].serve
	if len(p.guards) == 0 {
		return pass
	}
	return func(x *exchange, r *http.Request) {
		if g.checkGuards(x, r, p.guards, requestInput(r, nil)) {
			pass(x, r)
		}
	}
}

// upstream passes requests on to one service over its own connections.
type upstream struct {
	config       upstreamConfig
	bodyBytesMax int64
	logger       *slog.Logger
	target       *url.URL
	transport    *http.Transport
	proxy        *httputil.ReverseProxy
}

func newUpstream(config upstreamConfig, bodyBytesMax int64, logger *slog.Logger) (*upstream, error) {
	parsed, err := url.Parse(config.url)
	if err != nil {
		return nil, err
	}
	u := &upstream{config: config, bodyBytesMax: bodyBytesMax, logger: logger, target: parsed}
	u.transport = &http.Transport{
		DialContext:            (&net.Dialer{Timeout: min(upstreamDialTimeout, config.timeout), KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    config.timeout,
		ExpectContinueTimeout:  time.Second,
		MaxIdleConnsPerHost:    upstreamIdlePerHostMax,
		IdleConnTimeout:        upstreamIdleTimeout,
		MaxResponseHeaderBytes: upstreamHeaderBytesMax,
		DisableCompression:     true, // bytes pass as they are
	}
	u.proxy = &httputil.ReverseProxy{
		Rewrite:        u.rewrite,
		Transport:      u.transport,
		ModifyResponse: watchResponse,
		ErrorHandler:   u.fail,
		BufferPool:     &proxyBuffers,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	return u, nil
}

// passage is one request on its way through an upstream and back. Its timer
// ends it when the upstream is silent for too long: before the response begins,
// and then between any two parts of it. How long a response takes as a whole is
// not bounded.
type passage struct {
	exchange *exchange
	request  *http.Request // as it came in
	silence  *time.Timer
	timeout  time.Duration
	failed   atomic.Pointer[error] // why the request body could not be read
}

type passageKey struct{}

func passageOf(r *http.Request) *passage { return r.Context().Value(passageKey{}).(*passage) }

// serve passes one request on.
func (u *upstream) serve(x *exchange, r *http.Request) {
	if r.ContentLength > u.bodyBytesMax {
		x.problem(r, bodyTooLarge(u.bodyBytesMax))
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	p := &passage{exchange: x, request: r, timeout: u.config.timeout}
	p.silence = time.AfterFunc(p.timeout, func() { cancel(errUpstreamTimeout) })
	defer p.silence.Stop()
	r = r.WithContext(context.WithValue(ctx, passageKey{}, p))
	r.Body = &requestBody{http.MaxBytesReader(x.ResponseWriter, r.Body, u.bodyBytesMax), p}
	u.proxy.ServeHTTP(x, r)
}

// watchResponse makes every part of the response wind the timer up again.
func watchResponse(response *http.Response) error {
	p := passageOf(response.Request)
	p.silence.Reset(p.timeout)
	response.Body = &responseBody{response.Body, p}
	return nil
}

type responseBody struct {
	io.ReadCloser
	passage *passage
}

// Read reads a part of the response.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		b.passage.silence.Reset(b.passage.timeout)
	}
	return n, err
}

// requestBody remembers that the client's side failed, for which the upstream
// is not to blame.
type requestBody struct {
	io.ReadCloser
	passage *passage
}

// Read reads a part of the request.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.passage.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// rewrite makes the request that goes out. What the client says about who and
// where it is, is dropped; what the gateway knows of it is set.
func (u *upstream) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	for name := range out.Header {
		if untrusted(name) {
			delete(out.Header, name)
		}
	}
	out.Trailer = nil
	pr.SetURL(u.target)
	pr.SetXForwarded()
	passIdentity(out, passageOf(out).exchange.checked)
	out.Header.Add("Via", receivedBy)
	propagation.TraceContext{}.Inject(out.Context(), propagation.HeaderCarrier(out.Header))
}

// Headers that tell a service who sent a request. Those of a client are dropped.
const (
	tenantHeader = "Countermand-Tenant"
	clientHeader = "Countermand-Client"
	scopesHeader = "Countermand-Scopes"
)

// passIdentity tells the service who sent the request. A credential that was checked
// here is not for the service, which could use it as its own.
func passIdentity(out *http.Request, checked bool) {
	if checked {
		out.Header.Del("Authorization")
		out.Header.Del(apiKeyHeader)
	}
	identity := IdentityOf(out.Context())
	for name, value := range map[string]string{
		tenantHeader: identity.Tenant, clientHeader: identity.Client, scopesHeader: strings.Join(identity.Scopes, " "),
	} {
		if value != "" {
			out.Header.Set(name, value)
		}
	}
}

// untrusted reports whether a header field of a client must not reach a
// service: one that says where the request comes from or whom it is for, one
// whose name some servers take for another, or one that asks for a protocol the
// gateway does not pass on. Names come in canonical form.
func untrusted(name string) bool {
	switch name {
	case "Connection", "Upgrade", "Traceparent", "Tracestate",
		"True-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip",
		"X-Original-Url", "X-Original-Host", "X-Rewrite-Url", "X-Host",
		"Remote-User", "X-Remote-User", "X-User", "X-User-Id", "X-Tenant", "X-Tenant-Id":
		return true
	}
	return strings.IndexByte(name, '_') >= 0 || contains(name, "forwarded") || contains(name, "real-ip") ||
		contains(name, "realip") || contains(name, "countermand")
}

// contains reports whether name holds part, which is in lower case, whatever
// the case of name.
func contains(name, part string) bool {
	for i := 0; i+len(part) <= len(name); i++ {
		if strings.EqualFold(name[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

// fail answers for an upstream that did not.
func (u *upstream) fail(_ http.ResponseWriter, out *http.Request, err error) {
	p := passageOf(out)
	x, r := p.exchange, p.request
	if failed := p.failed.Load(); failed != nil {
		x.problem(r, bodyProblem(*failed, u.bodyBytesMax))
		return
	}
	var network net.Error
	timedOut := errors.Is(context.Cause(out.Context()), errUpstreamTimeout) || errors.As(err, &network) && network.Timeout()
	if r.Context().Err() == nil { // else it failed because the client has gone
		u.logger.WarnContext(r.Context(), "upstream did not answer",
			slog.String("route", x.endpoint.id), slog.String("upstream", u.target.Host),
			slog.Bool("timed_out", timedOut), slog.Any("error", err))
	}
	if timedOut {
		x.failLater(r, codeUpstreamTimeout, "")
		return
	}
	x.failLater(r, codeUpstreamUnavailable, "")
}

var proxyBuffers = bufferPool{sync.Pool{New: func() any { return new([proxyBufferBytes]byte) }}}

// bufferPool makes a sync.Pool a [httputil.BufferPool]. It holds arrays by
// pointer, so that putting one back does not allocate.
type bufferPool struct{ sync.Pool }

// Get returns a buffer.
func (p *bufferPool) Get() []byte { return p.Pool.Get().(*[proxyBufferBytes]byte)[:] }

// Put takes it back.
func (p *bufferPool) Put(b []byte) { p.Pool.Put((*[proxyBufferBytes]byte)(b)) }
