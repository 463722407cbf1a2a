package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/countermand/countermand/platform/gateway/token"
)

// The routes that are always there, and what is told of requests without one.
const (
	routeUnmatched       = "unmatched"
	routeCommands        = "commands"
	routeOperations      = "operations"
	routeOperationList   = "operation-list"
	routeOperationEvents = "operation-events"
)

// handler serves a request that was routed.
type handler func(x *exchange, r *http.Request)

// snapshot is a table made ready to serve. A request sees one snapshot from
// beginning to end.
type snapshot struct {
	table     *Table
	router    *chi.Mux
	unmatched map[string]*endpoint // by method label
	upstreams map[string]*upstream
	verifiers map[string]*token.Verifier // by name of the issuer
}

// newSnapshot makes a table ready. Upstreams of the one before that did not
// change keep their connections.
func (g *Gateway) newSnapshot(table *Table, before *snapshot) (*snapshot, error) {
	s := &snapshot{
		table: table, router: chi.NewRouter(),
		unmatched: make(map[string]*endpoint), upstreams: make(map[string]*upstream),
		verifiers: make(map[string]*token.Verifier),
	}
	for _, method := range append(slices.Clone(routeMethods), http.MethodOptions, http.MethodConnect, http.MethodTrace, methodLabel("")) {
		s.unmatched[method] = g.metrics.endpoint(routeUnmatched, method, "")
	}
	for name, config := range table.upstreams {
		if before != nil && before.upstreams[name] != nil && before.upstreams[name].config == config {
			s.upstreams[name] = before.upstreams[name]
			continue
		}
		u, err := newUpstream(config, g.config.BodyBytesMax, g.logger)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", name, err)
		}
		s.upstreams[name] = u
	}
	if g.deps.Keys == nil && table.asksForKeys() {
		return nil, errors.New("routes ask for API keys, and this gateway has none")
	}
	for name, i := range table.auth.issuers {
		if before != nil && before.table.auth.issuers[name] != nil && before.table.auth.issuers[name].config.Equal(i.config) {
			s.verifiers[name] = before.verifiers[name] // with the keys that it has read
			continue
		}
		s.verifiers[name] = token.New(i.config, nil, g.logger)
	}
	with := func(serve func(*exchange, *http.Request, *snapshot)) handler {
		return func(x *exchange, r *http.Request) { serve(x, r, s) }
	}
	s.mount(g, routeCommands, http.MethodPost, "/v1/commands/{type}", with(g.serveAnyCommand)) // which asks as the command's route does
	s.add(g, routeOperations, http.MethodGet, "/v1/operations/{id}", with(g.serveOperation))
	s.add(g, routeOperations, http.MethodHead, "/v1/operations/{id}", with(g.serveOperation))
	s.add(g, routeOperations, http.MethodDelete, "/v1/operations/{id}", with(g.serveCancel))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		s.add(g, routeOperationList, method, "/v1/operations", with(g.serveOperations))
		s.add(g, routeOperationEvents, method, "/v1/operations/{id}/events", with(g.serveProgress))
	}
	s.mountResources(g, g.deps.Resources)
	for _, rt := range table.routes {
		if rt.kind == "stream" && g.hub == nil {
			return nil, fmt.Errorf("route %s: this gateway was given no source of events for streams", rt.id)
		}
		if c, ok := rt.target.(commandRoute); ok && c.acceptance.outbox && g.deps.Intake == nil {
			return nil, fmt.Errorf("route %s: accept: outbox needs a database of the gateway's own, and it has none", rt.id)
		}
		serve := g.authenticated(s, rt.demand, rt.target.serve(g, s))
		s.mount(g, rt.id, rt.method, rt.pattern, serve)
		if rt.method == http.MethodGet && !table.has(http.MethodHead, rt.pattern) {
			s.mount(g, rt.id, http.MethodHead, rt.pattern, serve) // RFC 9110 §9.1: who has GET has HEAD
		}
	}
	if err := s.mountDocuments(g); err != nil {
		return nil, err
	}
	s.router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		w.(*exchange).fail(r, codeNotFound, "") // ServeHTTP passed it
	})
	s.router.MethodNotAllowed(s.methodNotAllowed)
	return s, nil
}

func (t *Table) has(method, pattern string) bool {
	return slices.ContainsFunc(t.routes, func(rt *route) bool {
		return rt.method == method && shapeOf(rt.pattern) == shapeOf(pattern)
	})
}

// add mounts a resource that is always there.
func (s *snapshot) add(g *Gateway, id, method, pattern string, serve handler) {
	s.mount(g, id, method, pattern, g.authenticated(s, s.table.auth.builtIn, serve))
}

// mount has requests served as they are.
func (s *snapshot) mount(g *Gateway, id, method, pattern string, serve handler) {
	e := g.metrics.endpoint(id, method, pattern)
	s.router.Method(method, pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := w.(*exchange) // ServeHTTP passed it
		x.endpoint = e
		serve(x, r)
	}))
}

// methodNotAllowed answers for a path that has routes, but not for this method.
// The router also calls it for a method it does not know, whatever the path.
func (s *snapshot) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	x := w.(*exchange) // ServeHTTP passed it
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allowed []string
	for _, method := range routeMethods {
		if s.router.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		x.fail(r, codeNotFound, "")
		return
	}
	x.Header().Set("Allow", strings.Join(allowed, ", "))
	x.fail(r, codeMethodNotAllowed, "Allowed here: "+strings.Join(allowed, ", ")+".")
}
