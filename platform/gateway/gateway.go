package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/follow"
)

// Deps are what the gateway talks to. Publisher, Operations and Lookup are required,
// and all must be safe for concurrent use.
type Deps struct {
	// Publisher stores commands; its nil error is the durable ack.
	Publisher Publisher
	// Operations tells what became of them.
	Operations Operations
	// Lookup reads a stored command back, to compare a repeated request with the
	// first of its Idempotency-Key. A broker.Broker's method of that name is one.
	Lookup func(ctx context.Context, topic events.Topic, partition int, offset uint64) (broker.Delivery, error)
	// Intake takes commands of routes that accept while the broker is away. It may be
	// nil when no table has a route with accept: outbox.
	Intake Intake
	// Source is where streams read events, such as a broker.Broker. It may be nil when
	// no table has a route of kind stream.
	Source follow.Source
	// Keys tells whose an API key is: [ErrCredentialRefused] when it is not taken, any
	// other error when that cannot be told now. It may be nil while no route asks for
	// keys.
	Keys func(ctx context.Context, key string) (Identity, error)
	// Resources are served beside operations; there may be none.
	Resources []Resource
	// Described is what the documents tell of the resources, see [Table.OpenAPI].
	Described [][]byte
}

// Gateway serves a route table over HTTP. Make it with [New]; it is safe for
// concurrent use.
type Gateway struct {
	config  Config
	deps    Deps
	mint    *mint
	acks    *patience
	waiters *waiters
	metrics *metrics
	tracer  trace.Tracer
	logger  *slog.Logger

	loading sync.Mutex // held while a table is made ready
	current atomic.Pointer[snapshot]

	hub       *follow.Hub // nil without a Source
	followers followers
	sockets   sync.WaitGroup // which the server does not know any more

	draining  chan struct{} // closed by Drain
	drainOnce sync.Once
	drain     context.Context // ends with it
	drained   context.CancelFunc
}

// New returns a gateway that serves the table. It fails when the configuration
// is not valid, something of deps is missing, or the metrics are registered
// already.
func New(config Config, table *Table, deps Deps) (*Gateway, error) {
	errs := []error{config.Validate()}
	if deps.Publisher == nil || deps.Operations == nil || deps.Lookup == nil {
		errs = append(errs, errors.New("publisher, operations and lookup are required"))
	}
	if table == nil {
		errs = append(errs, errors.New("a route table is required"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	config = config.withDefaults()
	g := &Gateway{
		config: config, deps: deps, mint: newMint(config.Secret), acks: &patience{timeout: config.PublishTimeout},
		tracer: config.TracerProvider.Tracer(tracerName), logger: config.Logger,
		draining: make(chan struct{}),
	}
	g.drain, g.drained = context.WithCancel(context.Background())
	g.waiters = newWaiters(&g.config, g.changed)
	if deps.Source != nil {
		g.hub = follow.New(deps.Source, follow.Config{Secret: config.Secret, Logger: config.Logger})
	}
	var err error
	if g.metrics, err = newMetrics(config.Registerer, g.waiters.following); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if err := g.SetTable(table); err != nil {
		return nil, err
	}
	return g, nil
}

// Close ends what reads events for streams, after [Gateway.Drain] and after the server
// was shut down. It waits for WebSockets, which a server does not, until ctx ends.
func (g *Gateway) Close(ctx context.Context) error {
	g.Drain()
	done := make(chan struct{})
	go func() {
		g.sockets.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("gateway: WebSockets did not end in time: %w", ctx.Err())
	}
	if g.hub != nil {
		g.hub.Close()
	}
	return err
}

// SetTable serves another table from now on; requests in flight end by the one
// they began with. When it fails the current table stays.
func (g *Gateway) SetTable(table *Table) error {
	g.loading.Lock()
	defer g.loading.Unlock()
	before := g.current.Load()
	s, err := g.newSnapshot(table, before)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.current.Store(s)
	if before == nil {
		return nil
	}
	for name, u := range before.upstreams {
		if s.upstreams[name] != u {
			u.transport.CloseIdleConnections()
		}
	}
	return nil
}

// Drain makes requests that wait for an outcome answer 202 now, and later ones
// not wait. Streams end, and tell their clients to go on elsewhere. Call it before the server is shut down. It may be called again.
func (g *Gateway) Drain() {
	g.drainOnce.Do(func() {
		close(g.draining)
		g.drained()
	})
}

// Notify makes the requests that wait for the operation look at it anew.
// It does not block.
func (g *Gateway) Notify(operationID string) { g.waiters.wake(operationID) }

// ListenOutcomes tells waiting requests of every outcome that reader delivers, until
// ctx ends, when it returns nil, or the reader fails. Give it a reader on the tail of
// [events.Outcomes]. What it misses is found by polling, only later. decode makes an
// operation of an outcome event, or reports false when it cannot: then it is read.
// It is asked only for operations that somebody waits for.
func (g *Gateway) ListenOutcomes(ctx context.Context, reader broker.Reader, decode func(*events.Event) (Operation, bool)) error {
	const batchMax = 256
	for {
		deliveries, err := reader.Next(ctx, batchMax)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if err != nil {
			return fmt.Errorf("read outcomes: %w", err)
		}
		var unread []string
		for i := range deliveries {
			event := &deliveries[i].Event
			if !g.waiters.has(event.CorrelationID) {
				continue
			}
			if op, ok := decode(event); ok && op.ID == event.CorrelationID {
				op.Partial = true
				g.waiters.tell(&op)
			} else {
				unread = append(unread, event.CorrelationID)
			}
		}
		g.waiters.wake(unread...)
	}
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := g.current.Load()
	method := methodLabel(r.Method)
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := g.tracer.Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer))
	r = r.WithContext(ctx)
	x := &exchange{
		ResponseWriter: w, endpoint: s.unmatched[method], logger: g.logger,
		started: time.Now(), writeTimeout: g.config.WriteTimeout,
	}
	g.retire(w)
	defer span.End()
	defer g.observe(x, r, span)
	defer g.recover(x, r)
	if code, detail := checkHygiene(r); code != "" {
		x.fail(r, code, detail)
		return
	}
	if misdirected(r, g.config.Hosts) {
		x.fail(r, codeMisdirected, "")
		return
	}
	s.router.ServeHTTP(x, r)
}

// recover answers for a handler that panicked. When the answer had begun, it
// ends the connection instead: a cut response must not look whole.
func (g *Gateway) recover(x *exchange, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, _ := cause.(error); !errors.Is(err, http.ErrAbortHandler) {
		g.logger.ErrorContext(r.Context(), "request panicked", slog.String("route", x.endpoint.id),
			slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
		if x.status == 0 {
			clear(x.Header())
			x.fail(r, codeInternal, "The request could not be handled.")
			return
		}
	}
	panic(http.ErrAbortHandler)
}
