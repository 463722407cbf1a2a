package observe

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
)

const tracerName = "github.com/countermand/countermand/platform/ai"

// Observer makes spans and metrics. Make it with [New]; it is safe for concurrent use.
type Observer struct {
	tracer    trace.Tracer
	tokens    *prometheus.HistogramVec
	duration  *prometheus.HistogramVec
	firstPart *prometheus.HistogramVec
	overhead  prometheus.Histogram
	attempts  *prometheus.CounterVec
	breaker   *prometheus.GaugeVec
	cache     *prometheus.CounterVec
}

// New returns an observer. A nil registerer keeps the metrics to it; a nil provider
// means OpenTelemetry's global one.
func New(registerer prometheus.Registerer, tracers trace.TracerProvider) (*Observer, error) {
	if registerer == nil {
		registerer = prometheus.NewRegistry()
	}
	if tracers == nil {
		tracers = otel.GetTracerProvider()
	}
	seconds := []float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	o := &Observer{
		tracer: tracers.Tracer(tracerName),
		tokens: histogram(metricTokens, "Tokens of calls of AI models, by operation, model of the configuration and type (input, output).",
			[]float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304}, labelOperation, labelModel, labelTokenType),
		duration: histogram(metricDuration, "Time that calls of AI models took, by operation, model of the configuration and type of error (empty: none).",
			seconds, labelOperation, labelModel, labelErrorType),
		firstPart: histogram(metricFirstPart, "Time until the first part of an answer in parts, by operation and model of the configuration.",
			seconds, labelOperation, labelModel),
		overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricOverhead, Help: "Time that calls of AI models took beside waiting for upstreams, until the answer began.",
			Buckets: []float64{0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.05, 0.2, 1},
		}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricAttempts, Help: "Attempts of calls at deployments of AI models, by deployment and outcome.",
		}, []string{labelDeployment, labelOutcome}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: metricBreaker, Help: "1 while a deployment of an AI model is left alone because it failed.",
		}, []string{labelDeployment}),
		cache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricCache, Help: "Calls of AI models that the cache was asked for, by result (hit, miss).",
		}, []string{labelResult}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{o.tokens, o.duration, o.firstPart, o.overhead, o.attempts, o.breaker, o.cache} {
		errs = append(errs, registerer.Register(c))
	}
	return o, errors.Join(errs...)
}

// Upstream returns what tells the observer of attempts.
func (o *Observer) Upstream() upstream.Observer {
	return upstream.Observer{
		Begin: o.attempt,
		Breaker: func(deployment string, open bool) {
			value := 0.0
			if open {
				value = 1
			}
			o.breaker.WithLabelValues(deployment).Set(value)
		},
	}
}

// attempt begins the span of a request to a model, which has the form that the
// conventions give to one.
func (o *Observer) attempt(ctx context.Context, a upstream.Observed) (context.Context, func(upstream.Ended)) {
	operation := operations[a.Format]
	ctx, span := o.tracer.Start(ctx, operation+" "+a.Model.Name, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(attribute.String(attrOperation, operation), attribute.String(attrProvider, providerName(a.Model.Provider)),
			attribute.String(attrRequestModel, a.Model.Name), attribute.String(attrDeployment, a.Deployment))
	}
	return ctx, func(e upstream.Ended) {
		o.attempts.WithLabelValues(a.Deployment, string(e.Outcome)).Inc()
		if !span.IsRecording() {
			span.End()
			return
		}
		if e.Usage.Total() > 0 {
			span.SetAttributes(attribute.Int64(attrInputTokens, e.Usage.InputTotal()), attribute.Int64(attrOutputTokens, e.Usage.OutputTotal()))
		}
		if e.Err != nil {
			span.SetStatus(codes.Error, "")
			span.SetAttributes(attribute.String(attrErrorType, errorType(e.Err)))
		}
		span.End()
	}
}

// Call is a call that is observed.
type Call struct {
	o      *Observer
	span   trace.Span
	began  time.Time
	format wire.Format
	model  string
	tenant string
}

// Begin starts the span of a call of the endpoint of that name.
func (o *Observer) Begin(ctx context.Context, endpoint string, format wire.Format, tenant string) (context.Context, *Call) {
	ctx, span := o.tracer.Start(ctx, endpoint, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, &Call{o: o, span: span, began: time.Now(), format: format, tenant: tenant}
}

// Model notes the model of the configuration that was asked for.
func (c *Call) Model(name string) { c.model = name }

// Began notes that the answer begins, after waiting so long for upstreams. It returns
// the time that is left: what the gateway itself took.
func (c *Call) Began(waited time.Duration, inParts bool) time.Duration {
	took := time.Since(c.began)
	overhead := max(took-waited, 0)
	c.o.overhead.Observe(overhead.Seconds())
	if inParts {
		c.o.firstPart.WithLabelValues(operations[c.format], c.model).Observe(took.Seconds())
	}
	return overhead
}

// Cached counts a look into the cache.
func (c *Call) Cached(hit bool) {
	result := "miss"
	if hit {
		result = "hit"
	}
	c.o.cache.WithLabelValues(result).Inc()
}

// End ends the call. err is nil when the client has got its answer.
func (c *Call) End(id ai.CallID, attempts int, usage ai.Usage, cost ai.NanoUSD, err error) {
	operation, kind := operations[c.format], ""
	if err != nil {
		kind = errorType(err)
	}
	c.o.duration.WithLabelValues(operation, c.model, kind).Observe(time.Since(c.began).Seconds())
	if usage.Total() > 0 {
		c.o.tokens.WithLabelValues(operation, c.model, "input").Observe(float64(usage.InputTotal()))
		if c.format != wire.Embeddings {
			c.o.tokens.WithLabelValues(operation, c.model, "output").Observe(float64(usage.OutputTotal()))
		}
	}
	if c.span.IsRecording() {
		c.span.SetAttributes(
			attribute.String(attrModel, c.model), attribute.String(attrTenant, c.tenant),
			attribute.String(attrCallID, id.String()), attribute.Int(attrAttempts, attempts), attribute.Int64(attrCost, int64(cost)),
		)
		if err != nil {
			c.span.SetAttributes(attribute.String(attrErrorType, kind))
			c.span.SetStatus(codes.Error, "")
		}
	}
	c.span.End()
}

// errorType names an error, with one of a bounded number of names: codes of upstreams
// are not among them.
func errorType(err error) string {
	var told *wire.Error
	if !errors.As(err, &told) {
		return "client_gone"
	}
	switch told.Code {
	case "budget_exhausted", "rate_limited", "price_unknown", "call_cap", "books_unavailable", "upstream_cut", "upstream_timeout",
		"upstream_unreachable", "upstream_answer_invalid", "upstream_key_refused", "overloaded", "model_not_found", "endpoint_not_supported",
		"invalid_request", "content_refused", "client_gone":
		return told.Code
	}
	switch {
	case told.Status >= 500:
		return "upstream_error"
	case told.Status == 429:
		return "upstream_limited"
	}
	return "refused"
}
