package route

import (
	"log/slog"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/gateway"
)

// Prefix is where the endpoints are.
const Prefix = "/ai/v1/"

// Config of a [Handler].
type Config struct {
	// Keeper lets calls through and keeps the books; required.
	Keeper *budget.Keeper
	// Observer is told of calls; required.
	Observer *observe.Observer
	// Async takes a call whose client prefers not to wait for it; nil: it waits.
	Async func(w http.ResponseWriter, r *http.Request, call Call)
	// BodyBytesMax bounds a request; 32 MiB.
	BodyBytesMax int64
	// WriteTimeout bounds one write to a client; 30 s.
	WriteTimeout time.Duration
	Logger       *slog.Logger
}

// Call is a request that was read and found good.
type Call struct {
	upstream.Request
	Caller ai.Caller
}

const (
	bodyBytesDefault    = 32 << 20
	writeTimeoutDefault = 30 * time.Second
)

// Handler serves the endpoints. Make it with [New]; it is safe for concurrent use.
type Handler struct {
	config  Config
	router  *upstream.Router
	mux     *http.ServeMux
	hooks   *http.Client
	current atomic.Pointer[settings]
}

// settings are what a configuration says beside where calls go.
type settings struct {
	*config.Config
	cache *cache
}

// New returns a handler that serves a configuration.
func New(c Config, served *config.Config) *Handler {
	if c.BodyBytesMax <= 0 {
		c.BodyBytesMax = bodyBytesDefault
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = writeTimeoutDefault
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	h := &Handler{
		config: c, router: upstream.NewRouter(served.Upstream, c.Observer.Upstream(), c.Logger), mux: http.NewServeMux(),
		hooks: newHookClient(),
	}
	h.setSettings(served)
	h.mux.HandleFunc("POST "+Prefix+"chat/completions", h.serve(wire.Chat))
	h.mux.HandleFunc("POST "+Prefix+"embeddings", h.serve(wire.Embeddings))
	h.mux.HandleFunc("POST "+Prefix+"responses", h.serve(wire.Responses))
	h.mux.HandleFunc("POST "+Prefix+"messages", h.serve(wire.Messages))
	h.mux.HandleFunc("GET "+Prefix+"models", h.models)
	h.mux.HandleFunc("GET "+Prefix+"models/{model...}", h.model)
	h.mux.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) {
		formatOf(r).fail(w, &wire.Error{
			Status: http.StatusNotFound, Code: "not_found", Message: "Nothing is here. See docs/how-to/use-the-ai-route.md for what is.",
		})
	})
	return h
}

// SetConfig serves another configuration from now on; calls under way end by the one
// they began with.
func (h *Handler) SetConfig(c *config.Config) {
	h.router.SetConfig(c.Upstream)
	h.setSettings(c)
}

func (h *Handler) setSettings(c *config.Config) {
	s := &settings{Config: c}
	if c.Cache.TTL > 0 { // a new one: guards may have changed
		s.cache = newCache(c.Cache)
	}
	h.current.Store(s)
}

// Close closes the connections that nobody uses.
func (h *Handler) Close() {
	h.router.Close()
	h.hooks.CloseIdleConnections()
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A connection may still have the deadline that the request before has left.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	h.mux.ServeHTTP(w, r)
}

// Behind returns the handler behind one that finds out who sent a request, such as
// [gateway.Gateway.Identify]. It answers in a form that clients know when that refuses.
func (h *Handler) Behind(identify func(r *http.Request) (gateway.Identity, http.Header, *gateway.Problem)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity, header, problem := identify(r)
		if problem == nil {
			h.ServeHTTP(w, r.WithContext(gateway.WithIdentity(r.Context(), identity)))
			return
		}
		maps.Copy(w.Header(), header)
		formatOf(r).fail(w, &wire.Error{Status: problem.Status, Code: problem.Code, Message: or(problem.Detail, problem.Title)})
	})
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// CallerOf tells who pays for what the identity asks for.
func CallerOf(identity gateway.Identity) ai.Caller {
	return ai.Caller{Tenant: or(identity.Tenant, ai.DefaultTenant), App: identity.Client, Key: identity.Key}
}

func (h *Handler) serve(format wire.Format) http.HandlerFunc {
	f := formats[format]
	return func(w http.ResponseWriter, r *http.Request) {
		caller := CallerOf(gateway.IdentityOf(r.Context()))
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, observed := h.config.Observer.Begin(ctx, r.Pattern, format, caller.Tenant)
		x := &exchange{
			h: h, s: h.current.Load(), w: w, r: r.WithContext(ctx), f: f, call: Call{Caller: caller}, observed: observed,
			out: &writer{w: w, control: http.NewResponseController(w), timeout: h.config.WriteTimeout},
		}
		x.call.Format, x.call.Tenant = format, caller.Tenant
		defer x.end()
		if err := x.run(); err != nil {
			x.fail(err)
		}
	}
}
