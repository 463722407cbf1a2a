package route

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
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

// Plan and Do let others than clients make calls: see [upstream.Router.Plan].
func (h *Handler) Plan(q upstream.Request) (*upstream.Plan, error) { return h.router.Plan(q) }

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
		ctx, observed := h.config.Observer.Begin(ctx, format, caller.Tenant)
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

// exchange is one call of a client.
type exchange struct {
	h        *Handler
	s        *settings
	w        http.ResponseWriter
	r        *http.Request
	f        *format
	out      *writer
	call     Call
	observed *observe.Call

	reservation *budget.Reservation
	usage       ai.Usage
	failed      error
}

// run makes the call and gives the answer. What it returns has not been told to the
// client yet.
func (x *exchange) run() error {
	if err := x.read(); err != nil {
		return err
	}
	x.redact()
	if err := x.guardRequest(); err != nil {
		return err
	}
	if x.h.config.Async != nil && prefersAsync(x.r.Header) {
		x.h.config.Async(x.w, x.r, x.call)
		return nil
	}
	plan, err := x.h.router.Plan(x.call.Request)
	if err != nil {
		return err
	}
	x.observed.Model(plan.Model)
	key, cached := x.cached()
	if cached != nil {
		x.w.Header().Set("X-Ai-Cache", "hit")
		x.begin(0, 0)
		x.json(cached)
		return nil
	}
	x.reservation, err = x.h.config.Keeper.Reserve(x.r.Context(), budget.Call{
		Caller: x.call.Caller, Operation: string(x.call.Format), Model: x.call.Model, Targets: plan.Targets, Most: plan.Most,
	})
	if err != nil {
		return refusal(err)
	}
	defer x.reservation.Close()
	answer, err := plan.Do(x.r.Context(), reserved{x.reservation})
	if err != nil {
		return refusal(err)
	}
	defer answer.Close()
	if answer.InParts() {
		return x.stream(answer)
	}
	x.usage = answer.Usage
	if err := x.guardResponse(answer.Body); err != nil {
		return err
	}
	x.logContent(answer.Body)
	x.keep(key, answer.Body)
	x.begin(answer.Attempts, answer.Waited)
	x.w.Header().Set("X-Ai-Cost", x.reservation.Cost().String())
	x.json(answer.Body)
	return nil
}

// reserved makes a reservation of the budgets one of upstream.
type reserved struct{ *budget.Reservation }

// Dispatch begins an attempt.
func (r reserved) Dispatch(ctx context.Context, model ai.Model) (upstream.Attempt, error) {
	a, err := r.Reservation.Dispatch(ctx, model)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// read reads and checks the request.
func (x *exchange) read() error {
	if kind := x.r.Header.Get("Content-Type"); kind != "" && !strings.HasPrefix(strings.ToLower(kind), "application/json") {
		return &wire.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: "The body must be JSON."}
	}
	if encoding := x.r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &wire.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_encoding", Message: "The body must not be encoded."}
	}
	data, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, x.h.config.BodyBytesMax))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &wire.Error{
			Status: http.StatusRequestEntityTooLarge, Code: "body_too_large",
			Message: "The body has more than " + strconv.FormatInt(large.Limit, 10) + " bytes.",
		}
	case err != nil:
		return &wire.Error{Status: http.StatusBadRequest, Code: "body_unreadable", Message: "The body did not arrive."}
	}
	// The read deadline was for the body; it would end an answer that takes longer.
	_ = x.out.control.SetReadDeadline(time.Time{})
	o, err := body.Parse(data)
	if err != nil {
		return wire.Invalid("", sentence(err.Error()))
	}
	q := &x.call.Request
	q.Body, q.Model = o, o.Get("model").Str
	if q.Model == "" {
		return wire.Invalid("model", "The field model must name a model.")
	}
	q.Stream = x.call.Format != wire.Embeddings && o.Get("stream").Bool()
	q.UsageAsked = o.Get("stream_options").Get("include_usage").Bool()
	if x.call.Format == wire.Messages {
		if beta := x.r.Header.Values("Anthropic-Beta"); len(beta) > 0 {
			q.Header = http.Header{"Anthropic-Beta": beta}
		}
	}
	return nil
}

// sentence makes a message of an error.
func sentence(text string) string {
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// prefersAsync reports whether the client does not want to wait (RFC 7240).
func prefersAsync(h http.Header) bool {
	for _, line := range h.Values("Prefer") {
		for preference := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

// begin sets the header fields of an answer.
func (x *exchange) begin(attempts int, waited time.Duration) {
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if x.reservation != nil {
		h.Set("X-Ai-Call-Id", x.reservation.ID().String())
		h.Set("X-Ai-Attempts", strconv.Itoa(attempts))
	}
	overhead := x.observed.Began(waited, x.call.Stream)
	h.Set("X-Ai-Overhead", strconv.FormatInt(overhead.Microseconds(), 10)+"us")
}

func (x *exchange) json(data []byte) {
	h := x.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	_ = x.out.write(data, false) // the client is gone when this fails
}

// stream gives an answer in parts. Once its first part is out, a failure is told within
// it.
func (x *exchange) stream(answer *upstream.Answer) error {
	held := x.s.holdsBack()
	var all []byte
	write := func(frames []byte) error {
		if !held {
			return x.out.write(frames, true)
		}
		if all = append(all, frames...); len(all) > heldBytesMax {
			return &wire.Error{Status: http.StatusBadGateway, Code: "answer_too_large", Message: "The answer is too large to be checked."}
		}
		return nil
	}
	h := x.w.Header()
	if !held {
		x.beginStream(answer)
	}
	err := answer.Pump(write)
	x.usage = answer.Usage
	var told *wire.Error
	switch {
	case err == nil && held:
		if err := x.guardStream(all); err != nil {
			return err
		}
		x.beginStream(answer)
		_ = x.out.write(all, true) // the client is gone when this fails
	case err == nil:
	case held:
		return err
	case errors.As(err, &told) && x.r.Context().Err() == nil:
		x.failed = err
		_ = x.out.write(x.f.errorEvent(nil, told), true)
		panic(http.ErrAbortHandler) // a cut answer must not look whole
	default:
		x.failed = err
		panic(http.ErrAbortHandler)
	}
	h.Set("X-Ai-Cost", x.reservation.Cost().String()) // a trailer
	return nil
}

func (x *exchange) beginStream(answer *upstream.Answer) {
	x.begin(answer.Attempts, answer.Waited)
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	h.Set("Trailer", "X-Ai-Cost")
}

// fail tells the client of an error, when its answer has not begun.
func (x *exchange) fail(err error) {
	x.failed = err
	var told *wire.Error
	if !errors.As(err, &told) {
		if x.r.Context().Err() != nil {
			return // nobody is there
		}
		x.h.config.Logger.ErrorContext(x.r.Context(), "AI call failed", slog.Any("error", err))
		told = &wire.Error{Status: http.StatusInternalServerError, Code: "internal_error", Message: "The call could not be made."}
		x.failed = told
	}
	if x.reservation != nil {
		h := x.w.Header()
		h.Set("X-Ai-Call-Id", x.reservation.ID().String())
		h.Set("X-Ai-Attempts", strconv.Itoa(x.reservation.Attempts()))
		h.Set("X-Ai-Cost", x.reservation.Cost().String())
	}
	x.f.fail(x.w, told)
}

// end tells what became of the call.
func (x *exchange) end() {
	var (
		id       ai.CallID
		attempts int
		cost     ai.NanoUSD
	)
	if x.reservation != nil {
		id, attempts, cost = x.reservation.ID(), x.reservation.Attempts(), x.reservation.Cost()
	}
	x.observed.End(id, attempts, x.usage, cost, x.failed)
}

// refusal makes an error for clients of one of the budgets.
func refusal(err error) error {
	var refused *budget.Refusal
	if !errors.As(err, &refused) {
		return err
	}
	return &wire.Error{Status: refused.HTTPStatus(), Code: string(refused.Code), Message: refused.Detail, RetryAfter: refused.RetryAfter}
}

// writer writes to a client, each time within a deadline.
type writer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	set     time.Time
}

func (o *writer) write(data []byte, flush bool) error {
	if now := time.Now(); now.Sub(o.set) > min(time.Second, o.timeout/4) {
		o.set = now
		_ = o.control.SetWriteDeadline(now.Add(o.timeout)) // a writer of a test has none
	}
	if _, err := o.w.Write(data); err != nil {
		return err
	}
	if flush {
		return o.control.Flush()
	}
	return nil
}

func (h *Handler) models(w http.ResponseWriter, r *http.Request) {
	f := formatOf(r)
	list := []any{}
	for _, m := range h.router.Models(CallerOf(gateway.IdentityOf(r.Context())).Tenant) {
		list = append(list, f.model(m))
	}
	answer(w, f.modelList(list))
}

func (h *Handler) model(w http.ResponseWriter, r *http.Request) {
	f, name := formatOf(r), r.PathValue("model")
	for _, m := range h.router.Models(CallerOf(gateway.IdentityOf(r.Context())).Tenant) {
		if m.Name == name {
			answer(w, f.model(m))
			return
		}
	}
	f.fail(w, &wire.Error{Status: http.StatusNotFound, Code: "model_not_found", Param: "model", Message: "There is no such model here, or it is not for you."})
}

func answer(w http.ResponseWriter, document any) {
	data, err := json.Marshal(document)
	if err != nil { // cannot happen: it holds texts only
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(data) // the client is gone when this fails
}
