package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.Registerer = registry })
	b.order()
	b.order()
	b.do(http.MethodPost, "/v1/orders", "{")
	b.do(http.MethodGet, "/v1/operations/1", "")
	b.do(http.MethodHead, "/v1/orders/1", "")
	b.do("BREW", "/nowhere/1", "")
	b.do("SIP", "/nowhere/2", "")
	b.do(http.MethodGet, "/a/../b", "")
	ctx, leave := context.WithCancel(t.Context())
	leave()
	b.doContext(ctx, http.MethodPost, "/v1/orders", order)

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			value := metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			if value > 0 {
				got = append(got, fmt.Sprintf("%s %s %v", family.GetName(), strings.Join(labels, " "), value))
			}
		}
	}
	want := []string{ // labels in the order code, method, route
		"countermand_http_request_seconds operations 1",
		"countermand_http_request_seconds order 1",
		"countermand_http_request_seconds place-order 4",
		"countermand_http_request_seconds unmatched 3",
		"countermand_http_requests_total 202 POST place-order 2",
		"countermand_http_requests_total 400 GET unmatched 1",
		"countermand_http_requests_total 400 POST place-order 1",
		"countermand_http_requests_total 404 GET operations 1",
		"countermand_http_requests_total 404 other unmatched 2",
		"countermand_http_requests_total 499 POST place-order 1",
		"countermand_http_requests_total 502 HEAD order 1",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	table, err := gateway.ParseTable("routes.yaml", []byte("version: 1"), gateway.Contracts{}, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.New(gateway.Config{Secret: []byte("a secret of enough bytes"), Registerer: registry}, table,
		gateway.Deps{Publisher: b.broker, Operations: b.operations, Lookup: b.broker.Lookup}); err == nil {
		t.Error("metrics that are registered already: want an error")
	}
}

// recorder is a tracer that remembers the names of its spans.
type recorder struct {
	noop.TracerProvider
	mu    sync.Mutex
	names []string
}

func (r *recorder) Tracer(string, ...trace.TracerOption) trace.Tracer { return tracer{recorder: r} }

type tracer struct {
	noop.Tracer
	recorder *recorder
}

func (t tracer) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	span := &recordedSpan{recorder: t.recorder, context: trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	})}
	return trace.ContextWithSpan(ctx, span), span
}

type recordedSpan struct {
	noop.Span
	recorder *recorder
	context  trace.SpanContext
}

func (s *recordedSpan) SpanContext() trace.SpanContext { return s.context }
func (s *recordedSpan) IsRecording() bool              { return true }
func (s *recordedSpan) SetName(name string) {
	s.recorder.mu.Lock()
	defer s.recorder.mu.Unlock()
	s.recorder.names = append(s.recorder.names, name)
}

func TestTracing(t *testing.T) {
	t.Parallel()
	spans := &recorder{}
	b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.TracerProvider = spans })
	b.order("Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	w := b.do(http.MethodGet, "/v1/operations/1", "")
	b.do(http.MethodGet, "/nowhere", "")
	if want := []string{"POST place-order", "GET operations", "GET unmatched"}; !slices.Equal(spans.names, want) {
		t.Errorf("spans %v, want %v", spans.names, want)
	}
	if got := b.broker.messages()[0].Event.TraceParent; got != "00-01000000000000000000000000000000-0200000000000000-01" {
		t.Errorf("traceparent %q is not that of the span", got)
	}
	if p := decode[gateway.Problem](t, w); p.TraceID != "01000000000000000000000000000000" {
		t.Errorf("trace id %q", p.TraceID)
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	b := setup(t, func(c *gateway.Config, _ *gateway.Deps) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	b.order()
	if got := logged.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=DEBUG msg=request method=POST path=/v1/orders route=place-order status=202") {
		t.Errorf("logged %s", got)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	b := setup(t, func(c *gateway.Config, d *gateway.Deps) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		d.Publisher = publisherFunc(func(context.Context, broker.Message) (broker.Receipt, error) { panic("the secret") })
	})
	w := b.order()
	wantProblem(t, w, http.StatusInternalServerError, "internal_error")
	if strings.Contains(w.Body.String(), "secret") {
		t.Errorf("body %s", w.Body)
	}
	if strings.Count(logged.String(), "\n") != 1 || !strings.Contains(logged.String(), "the secret") {
		t.Errorf("logged %s", logged.String())
	}
}

func TestAPanicInTheMiddleOfAnAnswerEndsTheConnection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("panicked with %v", err)
		}
	}()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/nowhere", nil)
	b.gateway.ServeHTTP(brokenWriter{httptest.NewRecorder()}, r)
	t.Error("want a panic")
}

type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { panic("broken") }
