package telemetry_test

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/telemetry"
)

func newEvent() events.Event {
	return events.Event{
		ID: "e1", Source: "/gateway", Type: "shop.inventory.reserve.v1", Subject: "TEA-001",
		CorrelationID: "saga-1", DataContentType: events.ContentTypeJSON, Data: []byte(`{}`),
	}
}

// overNATS sends e through the header codec, as the broker does.
func overNATS(t *testing.T, e *events.Event) events.Event {
	t.Helper()
	decoder := events.NATS.Decoder()
	events.NATS.Encode(e, func(name, value string) { decoder.Header(name, value) })
	got, err := decoder.Event(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTraceFollowsAnEvent(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	tracer := provider.Tracer("test")

	state, err := trace.ParseTraceState("vendor=a b%c,other=1")
	if err != nil {
		t.Fatal(err)
	}
	client := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true,
	}))
	edge, edgeSpan := tracer.Start(client, "POST /v1/orders")
	sent := newEvent()
	_, publish := telemetry.StartPublish(edge, tracer, &sent)
	publish.End()
	edgeSpan.End()

	received := overNATS(t, &sent)
	ctx, process := telemetry.StartConsume(t.Context(), tracer, "inventory", &received)
	process.End()

	if got := trace.SpanContextFromContext(ctx).TraceState().String(); got != state.String() {
		t.Errorf("tracestate is %q, want %q", got, state)
	}
	spans := recorder.Ended()
	if len(spans) != 3 {
		t.Fatalf("%d spans, want 3", len(spans))
	}
	want := edgeSpan.SpanContext().TraceID()
	for _, span := range spans {
		if got := span.SpanContext().TraceID(); got != want {
			t.Errorf("%s: trace id %s, want %s", span.Name(), got, want)
		}
	}
	sender, receiver := spans[0], spans[2]
	if receiver.Parent().SpanID() != sender.SpanContext().SpanID() || !receiver.Parent().IsRemote() {
		t.Errorf("parent of %q is not %q", receiver.Name(), sender.Name())
	}
	if sender.Name() != "publish shop.inventory.reserve.v1" || sender.SpanKind() != trace.SpanKindProducer {
		t.Errorf("sender is %s %q", sender.SpanKind(), sender.Name())
	}
	if receiver.Name() != "process shop.inventory.reserve.v1" || receiver.SpanKind() != trace.SpanKindConsumer {
		t.Errorf("receiver is %s %q", receiver.SpanKind(), receiver.Name())
	}
	attributes := attribute.NewSet(receiver.Attributes()...)
	for key, want := range map[attribute.Key]string{
		"messaging.operation.name": "process", "messaging.operation.type": "process",
		"messaging.message.id": "e1", "messaging.consumer.group.name": "inventory",
		"cloudevents.event_id": "e1", "cloudevents.event_source": "/gateway",
		"cloudevents.event_type": "shop.inventory.reserve.v1", "cloudevents.event_subject": "TEA-001",
		"countermand.saga.id": "saga-1",
	} {
		if got, _ := attributes.Value(key); got.AsString() != want {
			t.Errorf("%s = %q, want %q", key, got.AsString(), want)
		}
	}
}

func TestInjectWithoutASpanKeepsTheEvent(t *testing.T) {
	t.Parallel()
	e := newEvent()
	e.TraceParent, e.TraceState = "00-00000000000000000000000000000001-0000000000000002-01", "a=1"
	before := e
	telemetry.Inject(t.Context(), &e)
	if e.TraceParent != before.TraceParent || e.TraceState != before.TraceState {
		t.Errorf("changed to %q, %q", e.TraceParent, e.TraceState)
	}
	telemetry.Inject(withSpan(t.Context()), &e)
	if e.TraceState != "" {
		t.Errorf("tracestate %q stayed with another parent", e.TraceState)
	}
}

func TestInjectLeavesTheEventValid(t *testing.T) {
	t.Parallel()
	var members []string
	for i := range 30 {
		members = append(members, strings.Repeat("k", 20)+string(rune('a'+i%26))+string(rune('a'+i/26))+"="+strings.Repeat("v", 100))
	}
	state, err := trace.ParseTraceState(strings.Join(members, ","))
	if err != nil {
		t.Fatal(err)
	}
	span := trace.SpanContextFromContext(withSpan(t.Context())).WithTraceState(state)
	e := newEvent()
	telemetry.Inject(trace.ContextWithSpanContext(t.Context(), span), &e)
	if err := e.Validate(); err != nil || e.TraceParent == "" {
		t.Errorf("traceparent %q: %v", e.TraceParent, err)
	}
}

func TestExtract(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		traceParent string
		want        bool
	}{
		"none":       {"", false},
		"malformed":  {"00-zz-01", false},
		"all zero":   {"00-00000000000000000000000000000000-0000000000000000-01", false},
		"valid":      {"00-00000000000000000000000000000001-0000000000000002-01", true},
		"of version": {"cc-00000000000000000000000000000001-0000000000000002-01-more", true},
	} {
		e := newEvent()
		e.TraceParent = test.traceParent
		ctx := telemetry.Extract(t.Context(), &e)
		if got := trace.SpanContextFromContext(ctx).IsValid(); got != test.want {
			t.Errorf("%s: valid is %t", name, got)
		}
		if !test.want && ctx != t.Context() {
			t.Errorf("%s: another context came back", name)
		}
	}
}

func TestEventsWithoutTraceCostNothing(t *testing.T) {
	ctx := t.Context()
	e := newEvent()
	tracer := noop.NewTracerProvider().Tracer("test")
	if n := testing.AllocsPerRun(100, func() {
		telemetry.Inject(ctx, &e)
		_ = telemetry.Extract(ctx, &e)
	}); n > 0 {
		t.Errorf("Inject and Extract: %v allocations", n)
	}
	// The name, and what the no-op tracer needs itself.
	if n := testing.AllocsPerRun(100, func() {
		_, span := telemetry.StartConsume(ctx, tracer, "inventory", &e)
		span.End()
	}); n > 4 {
		t.Errorf("StartConsume: %v allocations", n)
	}
}

func BenchmarkStartConsume(b *testing.B) {
	e := newEvent()
	e.TraceParent = "00-00000000000000000000000000000001-0000000000000002-01"
	for name, tracer := range map[string]trace.Tracer{
		"noop":     noop.NewTracerProvider().Tracer("bench"),
		"recorded": sdktrace.NewTracerProvider().Tracer("bench"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, span := telemetry.StartConsume(context.Background(), tracer, "inventory", &e)
				span.End()
			}
		})
	}
}
