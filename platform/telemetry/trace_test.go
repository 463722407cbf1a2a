package telemetry_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"

	"github.com/countermand/countermand/platform/telemetry"
)

// clearEnvironment makes the test independent of where it runs.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_TRACES_SAMPLER",
	} {
		t.Setenv(name, "")
	}
}

func TestStartExportsSpans(t *testing.T) {
	clearEnvironment(t)
	exported := make(chan []byte, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		exported <- body
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=from-env")

	var log bytes.Buffer
	tracing, err := telemetry.Start(t.Context(), telemetry.Config{
		Service: "engine", Version: "1.2.3", Logger: telemetry.NewLogger(&log, telemetry.LogConfig{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !tracing.Exports() {
		t.Error("Exports() is false")
	}
	_, span := otel.Tracer("test").Start(t.Context(), "work")
	span.End()
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := string(<-exported)
	if !json.Valid([]byte(body)) {
		t.Fatalf("not JSON: %s", body)
	}
	for _, want := range []string{`"engine"`, `"from-env"`, `"deployment.environment.name"`, `"service.instance.id"`, `"work"`} {
		if !strings.Contains(body, want) {
			t.Errorf("export lacks %s: %s", want, body)
		}
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
}

func TestStartWithoutExporter(t *testing.T) {
	for name, environment := range map[string]map[string]string{
		"nothing set": {},
		"disabled":    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"},
		"none":        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnvironment(t)
			for key, value := range environment {
				t.Setenv(key, value)
			}
			tracing, err := telemetry.Start(t.Context(), telemetry.Config{Service: "engine"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, span := tracing.Tracer("test").Start(withSpan(t.Context()), "work")
			defer span.End()
			if tracing.Exports() || span.IsRecording() {
				t.Error("a span is recorded")
			}
			header := http.Header{}
			otel.GetTextMapPropagator().Inject(ctx, carrier(header))
			if !strings.Contains(header.Get("Traceparent"), "00000000000000000000000000000001") {
				t.Errorf("trace context that arrived is not passed on: %v", header)
			}
			if err := tracing.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStartRefusesWhatItCannotObey(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
		"OTEL_TRACES_EXPORTER":        "zipkin",
	} {
		t.Run(name, func(t *testing.T) {
			clearEnvironment(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(name, value)
			if _, err := telemetry.Start(t.Context(), telemetry.Config{}); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error is %v, want one that names %s", err, name)
			}
		})
	}
}

type carrier http.Header

func (c carrier) Get(key string) string { return http.Header(c).Get(key) }
func (c carrier) Set(key, value string) { http.Header(c).Set(key, value) }
func (c carrier) Keys() []string        { return nil }
