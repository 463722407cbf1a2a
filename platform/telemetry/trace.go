package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config names the process in its traces.
type Config struct {
	// Service is the service.name, such as gateway. OTEL_SERVICE_NAME and
	// OTEL_RESOURCE_ATTRIBUTES win over it.
	Service string
	// Version is the service.version.
	Version string
	// Logger is told of spans that could not be exported. Nil means nobody is.
	Logger *slog.Logger
}

// Telemetry is the tracing of a process. Get it from [Start].
type Telemetry struct {
	provider trace.TracerProvider
	exports  bool
	shutdown func(context.Context) error
}

// Start sets tracing up by the standard OTEL_* environment variables and makes
// it, with the W3C trace context propagator, the process-wide default of the
// OpenTelemetry libraries. Call it once, early.
//
// Spans are exported by OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set; sampler, headers, TLS, batch sizes
// and resource attributes follow their variables too. When neither is set, or
// OTEL_SDK_DISABLED is true, or OTEL_TRACES_EXPORTER is none, no span is made,
// while trace context that arrives is still passed on.
//
// Start does not wait for the collector: one that is down costs spans, not the
// start. ctx governs the start only. It fails on variables it cannot obey.
func Start(ctx context.Context, cfg Config) (*Telemetry, error) {
	if err := checkEnvironment(); err != nil {
		return nil, err
	}
	t := &Telemetry{provider: noop.NewTracerProvider(), shutdown: func(context.Context) error { return nil }}
	if exportWanted() {
		provider, err := startExport(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("start tracing: %w", err)
		}
		t.provider, t.exports, t.shutdown = provider, true, provider.Shutdown
	}
	otel.SetErrorHandler(exportErrors{cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))})
	otel.SetTextMapPropagator(propagator)
	otel.SetTracerProvider(t.provider)
	return t, nil
}

// exportErrors logs what the OpenTelemetry libraries report from their own
// goroutines.
type exportErrors struct{ logger *slog.Logger }

func (h exportErrors) Handle(err error) {
	h.logger.Warn("telemetry export failed", slog.Any("error", err))
}

// propagator carries W3C trace context and no baggage: what a client puts there
// would travel to every service and upstream.
var propagator = propagation.TraceContext{}

func startExport(ctx context.Context, cfg Config) (*sdktrace.TracerProvider, error) {
	attributes, err := resource.New(ctx,
		resource.WithService(), // a service.instance.id
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceName(cfg.Service), semconv.ServiceVersion(cfg.Version)),
		resource.WithFromEnv(), // last, so that it wins
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(attributes),
	), nil
}

func exportWanted() bool {
	return !strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") &&
		!strings.EqualFold(os.Getenv("OTEL_TRACES_EXPORTER"), "none") &&
		cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) != ""
}

// checkEnvironment refuses what would otherwise be passed over in silence.
func checkEnvironment() error {
	if !exportWanted() {
		return nil
	}
	if name := os.Getenv("OTEL_TRACES_EXPORTER"); name != "" && name != "otlp" {
		return fmt.Errorf("start tracing: OTEL_TRACES_EXPORTER is %q, want otlp or none", name)
	}
	protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"))
	if protocol == "grpc" {
		return errors.New("start tracing: OTEL_EXPORTER_OTLP_PROTOCOL is grpc, want http/protobuf or http/json (collectors listen for it on port 4318)")
	}
	return nil
}

// Tracer returns the tracer of an instrumentation scope, by convention the
// import path of the package that makes the spans.
func (t *Telemetry) Tracer(scope string) trace.Tracer { return t.provider.Tracer(scope) }

// TracerProvider returns what instrumentation libraries ask for.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.provider }

// Exports reports whether spans leave the process.
func (t *Telemetry) Exports() bool { return t.exports }

// Shutdown exports the spans that are ended and stops; ctx bounds the wait. Call
// it last, when nothing makes spans any more.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("stop tracing: %w", err)
	}
	return nil
}
