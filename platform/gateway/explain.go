package gateway

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
)

// RouteInfo is a route as people see it.
type RouteInfo struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	// Method and Path of the requests that it takes.
	Method string `json:"method"`
	Path   string `json:"path"`
	// Leads is what it leads to: the type of a command or signal, a topic or an
	// upstream.
	Leads string `json:"leads_to,omitempty"`
	// Accept is outbox for a command that is stored there before it is answered, and
	// empty for what goes to the broker.
	Accept string `json:"accept,omitempty"`
	// Auth is the credential that it asks for: none, key, jwt or either. What is always
	// there may also ask for one only of who has one: optional.
	Auth   string   `json:"auth"`
	Scopes []string `json:"scopes,omitempty"` // that the credential needs
	// Guards are their conditions.
	Guards []string `json:"guards,omitempty"`
	// Line of the table; 0 for a route that is always there.
	Line int `json:"line,omitempty"`
}

// leading is a target that can tell where it leads.
type leading interface{ leads() string }

// builtIn are the routes that are always there.
var builtIn = []RouteInfo{
	{ID: routeCommands, Kind: "command", Method: http.MethodPost, Path: "/v1/commands/{type}"},
	{ID: routeOperations, Kind: "operations", Method: http.MethodGet, Path: "/v1/operations/{id}"},
	{ID: routeOperations, Kind: "operations", Method: http.MethodDelete, Path: "/v1/operations/{id}"},
	{ID: routeOperationList, Kind: "operations", Method: http.MethodGet, Path: "/v1/operations"},
	{ID: routeOperationEvents, Kind: "operations", Method: http.MethodGet, Path: "/v1/operations/{id}/events"},
	{ID: routeOpenAPI, Kind: kindDocuments, Method: http.MethodGet, Path: "/openapi.json"},
	{ID: routeAsyncAPI, Kind: kindDocuments, Method: http.MethodGet, Path: "/asyncapi.json"},
	{ID: routeDocs, Kind: kindDocuments, Method: http.MethodGet, Path: "/docs"},
}

// Routes returns the routes of the table in its order, and then those that are
// always there.
func (t *Table) Routes() []RouteInfo {
	all := make([]RouteInfo, 0, len(t.routes)+len(builtIn))
	for _, rt := range t.routes {
		all = append(all, rt.info())
	}
	for _, rt := range builtIn {
		all = append(all, t.asked(rt))
	}
	return all
}

// asked returns a route that is always there with what it asks for in this table.
func (t *Table) asked(rt RouteInfo) RouteInfo {
	d := t.auth.builtIn
	if rt.Kind == kindDocuments {
		d = nil
	}
	if rt.Auth = d.by(); d != nil {
		rt.Scopes = d.scopes
		if d.optional {
			rt.Auth = "optional"
		}
	}
	return rt
}

func (rt *route) info() RouteInfo {
	info := RouteInfo{ID: rt.id, Kind: rt.kind, Method: rt.method, Path: rt.pattern, Line: rt.line, Auth: rt.demand.by()}
	if rt.demand != nil {
		info.Scopes = rt.demand.scopes
	}
	if target, ok := rt.target.(leading); ok {
		info.Leads = target.leads()
	}
	if c, ok := rt.target.(commandRoute); ok && c.acceptance.outbox {
		info.Accept = "outbox"
	}
	for i := range rt.guards {
		info.Guards = append(info.Guards, rt.guards[i].allow.String())
	}
	return info
}

// index makes the routes findable by path.
func (t *Table) index() {
	t.paths = chi.NewRouter()
	none := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, rt := range t.routes {
		t.paths.Method(rt.method, rt.pattern, none)
	}
	for _, rt := range builtIn {
		t.paths.Method(rt.Method, rt.Path, none)
	}
}

// Explanation is what a table makes of one request.
type Explanation struct {
	// Route is the one that takes it; nil when none does.
	Route  *RouteInfo        `json:"route,omitempty"`
	Params map[string]string `json:"params,omitempty"`
	// Allowed are the methods of the path, when none of its routes has this one.
	Allowed []string `json:"allowed,omitempty"`
	// Guards tell what each guard says, in order.
	Guards []GuardVerdict `json:"guards,omitempty"`
	// Problem is what the request is refused with before it is published or passed
	// on; nil when nothing that the table knows is against it.
	Problem *Problem `json:"problem,omitempty"`
}

// GuardVerdict is what one guard says.
type GuardVerdict struct {
	Allow   string `json:"allow"`
	Allowed bool   `json:"allowed"`
	// Error is why it cannot be told.
	Error string `json:"error,omitempty"`
}

// bodied is a target whose requests have a body with a contract.
type bodied interface{ body() *contract }

// Explain tells which route takes a request and what its schema and guards say of
// it. It reads the body, and publishes and sends nothing. It knows no broker and no
// operations, so a request without a Problem may still be refused.
func (t *Table) Explain(r *http.Request, body []byte) Explanation {
	var e Explanation
	if code, detail := checkHygiene(r); code != "" {
		e.Problem = newProblem(code, detail)
		return e
	}
	rt, params, builtin := t.match(r.Method, r.URL)
	if rt == nil && builtin == nil {
		e.Allowed = t.allowed(r.URL)
		e.Problem = newProblem(codeNotFound, "")
		if len(e.Allowed) > 0 {
			e.Problem = newProblem(codeMethodNotAllowed, "Allowed here: "+strings.Join(e.Allowed, ", ")+".")
		}
		return e
	}
	e.Params = params
	if builtin != nil {
		info := t.asked(*builtin)
		e.Route = &info
		if builtin.ID == routeCommands {
			if c := t.commands[params["type"]]; c == nil || !c.Saga {
				e.Problem = newProblem(codeUnknownCommand, "No command of that type can be sent from outside.")
			} else {
				_, e.Problem = c.decode(body)
			}
		}
		return e
	}
	info := rt.info()
	e.Route = &info
	e.Problem = rt.demand.lacks(IdentityOf(r.Context()))
	if target, ok := rt.target.(*eventsRoute); ok { // its guards look at each event
		if e.Problem == nil {
			e.Problem = target.explain(withParams(r, params), body)
		}
		return e
	}
	var document any
	if target, ok := rt.target.(bodied); ok {
		var problem *Problem
		if document, problem = target.body().decode(body); e.Problem == nil {
			e.Problem = problem
		}
	}
	for i := range rt.guards {
		g := &rt.guards[i]
		allowed, err := g.allow.Holds(requestInput(withParams(r, params), func() any { return document }))
		verdict := GuardVerdict{Allow: g.allow.String(), Allowed: allowed}
		if err != nil {
			verdict.Error = err.Error()
		}
		e.Guards = append(e.Guards, verdict)
		if !allowed && e.Problem == nil {
			e.Problem = g.problem()
		}
	}
	return e
}

// match returns the route that takes a request, or the built-in one.
func (t *Table) match(method string, u *url.URL) (*route, map[string]string, *RouteInfo) {
	found := chi.NewRouteContext()
	if !t.paths.Match(found, method, routePath(u)) {
		if method != http.MethodHead {
			return nil, nil, nil
		}
		return t.match(http.MethodGet, u)
	}
	params := make(map[string]string)
	for i, name := range found.URLParams.Keys {
		params[name] = found.URLParams.Values[i]
	}
	pattern := found.RoutePattern()
	for _, rt := range t.routes {
		if rt.method == method && rt.pattern == pattern {
			return rt, params, nil
		}
	}
	for i := range builtIn {
		if builtIn[i].Method == method && builtIn[i].Path == pattern {
			return nil, params, &builtIn[i]
		}
	}
	return nil, nil, nil
}

func (t *Table) allowed(u *url.URL) []string {
	return slices.DeleteFunc(slices.Clone(routeMethods), func(method string) bool {
		return !t.paths.Match(chi.NewRouteContext(), method, routePath(u))
	})
}

// routePath is what routes are matched against: the path as it was sent.
func routePath(u *url.URL) string {
	if u.RawPath != "" {
		return u.RawPath
	}
	return u.Path
}

// withParams returns r as the router would pass it on.
func withParams(r *http.Request, params map[string]string) *http.Request {
	found := chi.NewRouteContext()
	for name, value := range params {
		found.URLParams.Add(name, value)
	}
	return r.WithContext(contextWithRoute(r, found))
}

// contextWithRoute puts what a router found where handlers look for it.
func contextWithRoute(r *http.Request, found *chi.Context) context.Context {
	return context.WithValue(r.Context(), chi.RouteCtxKey, found)
}
