package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
)

// SagaIDKey is the span attribute that finds every span of a saga: the
// correlation id of its events.
const SagaIDKey = attribute.Key("countermand.saga.id")

// Inject makes the span in ctx the parent of whatever handles e: it writes the
// span's W3C trace context into e's traceparent and tracestate. Without a span
// in ctx, e keeps what it has.
func Inject(ctx context.Context, e *events.Event) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	e.TraceState = "" // of the span before, which must not go with the new parent
	propagator.Inject(ctx, carrier{e})
	if len(e.TraceState) > events.AttributeBytesMax {
		e.TraceState = "" // W3C lets it be dropped; the event would be invalid with it
	}
}

// Extract returns ctx with e's trace context as the remote parent of spans
// started in it. When e has none, or one that is malformed, it returns ctx.
func Extract(ctx context.Context, e *events.Event) context.Context {
	if e.TraceParent == "" {
		return ctx
	}
	return propagator.Extract(ctx, carrier{e})
}

// carrier gives the propagator the two attributes it reads and writes.
type carrier struct{ event *events.Event }

func (c carrier) Get(key string) string {
	switch key {
	case "traceparent":
		return c.event.TraceParent
	case "tracestate":
		return c.event.TraceState
	}
	return ""
}

func (c carrier) Set(key, value string) {
	switch key {
	case "traceparent":
		c.event.TraceParent = value
	case "tracestate":
		c.event.TraceState = value
	}
}

func (c carrier) Keys() []string { return []string{"traceparent", "tracestate"} }

// StartConsume starts the span of a consumer that handles e, as a child of the
// span that sent it, named after the type: "process shop.inventory.reserve.v1".
// The caller ends the span and records an error on it.
func StartConsume(ctx context.Context, tracer trace.Tracer, consumer string, e *events.Event) (context.Context, trace.Span) {
	ctx, span := tracer.Start(Extract(ctx, e), "process "+e.Type, consumerKind)
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingConsumerGroupName(consumer), semconv.MessagingOperationTypeProcess)
		describe(span, "process", e)
	}
	return ctx, span
}

// StartPublish starts the span of sending e as a child of the span in ctx and
// injects it into e, so that the consumer's span becomes its child. The caller
// ends the span and records an error on it.
func StartPublish(ctx context.Context, tracer trace.Tracer, e *events.Event) (context.Context, trace.Span) {
	ctx, span := tracer.Start(ctx, "publish "+e.Type, producerKind)
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingOperationTypeSend)
		describe(span, "publish", e)
	}
	Inject(ctx, e)
	return ctx, span
}

// The options are made once: made per event they would be garbage per event,
// traced or not.
var (
	consumerKind = trace.WithSpanKind(trace.SpanKindConsumer)
	producerKind = trace.WithSpanKind(trace.SpanKindProducer)
)

// describe sets the attributes that the semantic conventions for messaging and
// for CloudEvents name. No payload is among them.
func describe(span trace.Span, operation string, e *events.Event) {
	span.SetAttributes(
		semconv.MessagingOperationName(operation),
		semconv.MessagingMessageID(e.ID),
		semconv.CloudEventsEventID(e.ID),
		semconv.CloudEventsEventSource(e.Source),
		semconv.CloudEventsEventType(e.Type),
	)
	if e.Subject != "" {
		span.SetAttributes(semconv.CloudEventsEventSubject(e.Subject))
	}
	if e.CorrelationID != "" {
		span.SetAttributes(SagaIDKey.String(e.CorrelationID))
	}
}
