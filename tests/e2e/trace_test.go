package e2e

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/countermand/countermand/tests/internal/product"
)

// spans is a collector: it keeps every span that is sent to it.
type spans struct {
	mu  sync.Mutex
	all []*trace.Span
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &request) != nil {
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
}

// of returns the spans of a trace.
func (s *spans) of(traceID string) []*trace.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*trace.Span
	for _, span := range s.all {
		if hex.EncodeToString(span.TraceId) == traceID {
			found = append(found, span)
		}
	}
	return found
}

// attribute returns the text of a span's attribute.
func attribute(span *trace.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func TestACheckoutIsOneTrace(t *testing.T) {
	t.Parallel()
	got := &spans{}
	server := httptest.NewServer(got)
	defer server.Close()
	dev, _ := start(t, []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + server.URL, "OTEL_EXPORTER_OTLP_COMPRESSION=none", "OTEL_BSP_SCHEDULE_DELAY=50",
	}, "--json", "--data-dir", filepath.Join(t.TempDir(), "data"), "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")

	// The client has a trace of its own, which the whole checkout joins.
	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	answer, err := product.NewShop(dev.HTTP).Place(t.Context(), product.NewCheckout("ada", "TEA-001", 1, "tok_capture_fails").Body(),
		"Prefer: wait=10", "traceparent: 00-"+traceID+"-"+parent+"-01")
	if err != nil {
		t.Fatal(err)
	}
	if p := problem(t, answer, http.StatusPaymentRequired, "capture_failed"); p.TraceID != traceID {
		t.Errorf("trace_id of the problem is %q, want %s", p.TraceID, traceID)
	}
	id := operationOf(t, answer)

	type want struct{ name, consumer string }
	wanted := []want{
		{"POST place-order", ""},
		{"process shop.checkout.request.v1", "saga-engine"},
		{"process shop.order.create.v1", "order"},
		{"process shop.inventory.reserve.v1", "inventory"},
		{"process shop.payment.authorize.v1", "payment"},
		{"process shop.payment.capture.v1", "payment"},
		{"process shop.payment.void.v1", "payment"},
		{"process shop.inventory.release.v1", "inventory"},
		{"process shop.order.cancel.v1", "order"},
	}
	err = product.Await(t.Context(), 15*time.Second, func() error {
		for _, w := range wanted {
			if !slices.ContainsFunc(got.of(traceID), func(s *trace.Span) bool {
				return s.Name == w.name && attribute(s, "messaging.consumer.group.name") == w.consumer
			}) {
				return fmt.Errorf("no span %q of consumer %q", w.name, w.consumer)
			}
		}
		return nil
	})
	if err != nil {
		for _, span := range got.of(traceID) {
			t.Logf("span %q of consumer %q", span.Name, attribute(span, "messaging.consumer.group.name"))
		}
		t.Fatal(err)
	}

	found := got.of(traceID)
	known := map[string]bool{parent: true}
	for _, span := range found {
		known[hex.EncodeToString(span.SpanId)] = true
	}
	for _, span := range found {
		if of := hex.EncodeToString(span.ParentSpanId); !known[of] {
			t.Errorf("span %q hangs in the air: its parent %s is not in the trace", span.Name, of)
		}
		if saga := attribute(span, "countermand.saga.id"); saga != "" && saga != id {
			t.Errorf("span %q says saga %s, want %s", span.Name, saga, id)
		}
	}
	if err := dev.Stop(); err != nil {
		t.Error(err)
	}
}
