package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const tracerName = "github.com/countermand/countermand/platform/gateway"

// metrics are what the gateway counts. Its labels are bounded: routes come from
// the table, methods and codes from HTTP.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	// guardErrors are guards that could not be told, which refuse.
	guardErrors *prometheus.CounterVec
	// reads are statements that operations were asked for with.
	reads     prometheus.Counter
	followers prometheus.GaugeFunc
	// Of the routes of kind stream.
	streams      *prometheus.GaugeVec
	streamEvents *prometheus.CounterVec
	streamEnds   *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer, followers func() float64) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_http_requests_total",
			Help: "Requests answered, by route, method and status code.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "countermand_http_request_seconds",
			Help: "Time from the first byte of a request to the end of its answer, by route. Waits that clients asked for count.",
			Buckets: []float64{
				.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30,
			},
		}, []string{"route"}),
		guardErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_http_guard_errors_total",
			Help: "Requests refused because a guard could not be told: a field was missing, a type did not fit, or it cost too much.",
		}, []string{"route"}),
		reads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countermand_http_operation_reads_total",
			Help: "Reads of operations from the database, for one request or for many that waited.",
		}),
		followers: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "countermand_http_followers",
			Help: "Event streams of operations that are open.",
		}, followers),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "countermand_stream_followers",
			Help: "Streams that are open, by route and transport.",
		}, []string{"route", "transport"}),
		streamEvents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_stream_events_total",
			Help: "Events sent out by streams, by route and transport.",
		}, []string{"route", "transport"}),
		streamEnds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_stream_ends_total",
			Help: "Streams that ended, by route and reason: client, drained, idle, credential, overrun, gone, unavailable or error.",
		}, []string{"route", "reason"}),
	}
	if err := errors.Join(registerer.Register(m.requests), registerer.Register(m.seconds), registerer.Register(m.guardErrors),
		registerer.Register(m.reads), registerer.Register(m.followers),
		registerer.Register(m.streams), registerer.Register(m.streamEvents), registerer.Register(m.streamEnds)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

// Status codes that can be counted: 100 to 599.
const (
	codeMin = 100
	codeMax = 599
	// statusClientGone is counted, never sent: the client left before the answer.
	statusClientGone = 499
)

// endpoint is a route and method as it is served. What depends on nothing else
// is made when the table is loaded: its name, its metrics.
type endpoint struct {
	id       string
	method   string
	pattern  string
	spanName string
	seconds  prometheus.Observer
	requests *prometheus.CounterVec // of this route and method
	// byCode keeps the counters that were used, so that counting a request hashes
	// no labels.
	byCode [codeMax - codeMin + 1]atomic.Pointer[prometheus.Counter]
}

func (m *metrics) endpoint(id, method, pattern string) *endpoint {
	return &endpoint{
		id: id, method: method, pattern: pattern, spanName: method + " " + id,
		seconds:  m.seconds.WithLabelValues(id),
		requests: m.requests.MustCurryWith(prometheus.Labels{"route": id, "method": method}),
	}
}

func (e *endpoint) count(status int, took time.Duration) {
	e.seconds.Observe(took.Seconds())
	slot := &e.byCode[min(max(status, codeMin), codeMax)-codeMin]
	counter := slot.Load()
	if counter == nil {
		made := e.requests.WithLabelValues(strconv.Itoa(status))
		counter = &made
		slot.Store(counter)
	}
	(*counter).Inc()
}

// methodLabel bounds the methods that clients can make up.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "other"
}

// observe tells metrics, trace and log about a request that has ended.
func (g *Gateway) observe(x *exchange, r *http.Request, span trace.Span) {
	took := time.Since(x.started)
	status := x.status
	switch {
	case r.Context().Err() != nil:
		status = statusClientGone
	case status == 0:
		status = http.StatusOK // what net/http sends for a handler that says nothing
	}
	x.endpoint.count(status, took)
	if span.IsRecording() {
		span.SetName(x.endpoint.spanName)
		span.SetAttributes(
			attribute.String("http.request.method", methodLabel(r.Method)),
			attribute.String("http.route", x.endpoint.pattern),
			attribute.String("url.path", r.URL.EscapedPath()),
			attribute.Int("http.response.status_code", status),
		)
		if x.identity.Client != "" {
			span.SetAttributes(attribute.String("countermand.tenant", x.identity.Tenant), attribute.String("countermand.client", x.identity.Client))
		}
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
	}
	if g.logger.Enabled(r.Context(), slog.LevelDebug) {
		g.logger.LogAttrs(r.Context(), slog.LevelDebug, "request",
			slog.String("method", methodLabel(r.Method)), slog.String("path", r.URL.EscapedPath()),
			slog.String("route", x.endpoint.id), slog.Int("status", status), slog.Int64("bytes", x.bytes),
			slog.Duration("duration", took), slog.String("client", r.RemoteAddr),
			slog.Group("identity", "tenant", x.identity.Tenant, "client", x.identity.Client, "key", x.identity.Key))
	}
}

// streamMetrics are those of one route and transport.
type streamMetrics struct {
	open   prometheus.Gauge
	events prometheus.Counter
	ends   *prometheus.CounterVec
}

func (m *metrics) stream(route, transport string) *streamMetrics {
	return &streamMetrics{
		m.streams.WithLabelValues(route, transport), m.streamEvents.WithLabelValues(route, transport),
		m.streamEnds.MustCurryWith(prometheus.Labels{"route": route}),
	}
}

func (m *streamMetrics) end(why error) { m.ends.WithLabelValues(ending(why)).Inc() }
