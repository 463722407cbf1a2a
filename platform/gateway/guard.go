package gateway

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/platform/gateway/expression"
)

// guardsMax bounds the guards of one route.
const guardsMax = 16

// guard is a condition that a request must meet, beyond its schema.
type guard struct {
	allow  *expression.Program
	code   string
	status int
	detail string
}

// What guards and keys may name.
var (
	requestVariables = []expression.Variable{
		expression.Text("request.method"), expression.Text("request.path"),
		expression.Texts("request.params"), expression.Texts("request.query"), expression.Texts("request.headers"),
		expression.Text("identity.tenant"), expression.Text("identity.client"), expression.TextList("identity.scopes"),
	}
	requestScope = expression.NewScope(requestVariables...)
	bodyScope    = expression.NewScope(append([]expression.Variable{expression.Any("body")}, requestVariables...)...)
	eventScope   = expression.NewScope(append([]expression.Variable{expression.Any("body"), expression.Texts("event")}, requestVariables...)...)
)

// guardScopes tells what the guards of each kind of route may name. A proxy route
// does not read its body.
var guardScopes = map[string]*expression.Scope{"command": bodyScope, "signal": bodyScope, "events": eventScope, "proxy": requestScope, "stream": requestScope}

func readGuards(m mapping, scope *expression.Scope) []guard {
	node := m.take("guards")
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode || len(node.Content) > guardsMax {
		m.failAt(node, "guards: want a list of at most %d", guardsMax)
		return nil
	}
	var guards []guard
	for i, entry := range node.Content {
		inner, ok := m.document.mapping(entry, fmt.Sprintf("%s: guard %d", m.what, i+1))
		if !ok {
			continue
		}
		g := guard{status: http.StatusForbidden, code: codeRefused, detail: inner.text("detail")}
		if text := inner.required("allow"); text != "" {
			var err error
			if g.allow, err = scope.Condition(text); err != nil {
				inner.failAt(inner.at("allow"), "allow: %v", err)
			}
		}
		if code := inner.text("code"); code != "" {
			g.code = code
			if !codePattern.MatchString(code) || len(code) > codeBytesMax || catalogue[code].title != "" && code != codeRefused {
				inner.failAt(inner.at("code"), "code: want lower-case letters, digits and underscores, and none of the gateway's own codes")
			}
		}
		if status, ok := inner.number("status"); ok {
			g.status = status
			if status < 400 || status > 499 {
				inner.failAt(inner.at("status"), "status: want one from 400 to 499")
			}
		}
		inner.end()
		guards = append(guards, g)
	}
	return guards
}

// codeBytesMax bounds a code that a table makes up.
const codeBytesMax = 64

// problem returns what a refused request is told.
func (g *guard) problem() *Problem {
	if g.code != codeRefused {
		return newRejection(g.code, g.status, g.detail)
	}
	p := newProblem(codeRefused, g.detail)
	p.Status = g.status
	return p
}

// checkGuards runs guards in order and answers for the first one that refuses. A
// guard that cannot be told refuses too: a missing field must not open a door.
func (g *Gateway) checkGuards(x *exchange, r *http.Request, guards []guard, input expression.Input) bool {
	for i := range guards {
		allowed, err := guards[i].allow.Holds(input)
		if err != nil {
			g.untold(x, r, &guards[i], err)
		}
		if !allowed {
			x.problem(r, guards[i].problem())
			return false
		}
	}
	return true
}

// untold counts a guard that cannot be told.
func (g *Gateway) untold(x *exchange, r *http.Request, one *guard, err error) {
	g.metrics.guardErrors.WithLabelValues(x.endpoint.id).Inc()
	g.logger.DebugContext(r.Context(), "guard cannot be told, so it refuses", slog.String("route", x.endpoint.id),
		slog.String("guard", one.allow.String()), slog.Any("error", err))
}

// requestInput gives expressions a request; body, unless it is nil, decodes what it holds.
func requestInput(r *http.Request, body func() any) expression.Input {
	return func(name string) (any, bool) {
		switch name {
		case "request.method":
			return r.Method, true
		case "request.path":
			return r.URL.Path, true
		case "request.params":
			return pathParams(r), true
		case "request.query":
			return firstOf(r.URL.Query(), false), true
		case "request.headers":
			return firstOf(r.Header, true), true
		case "identity.tenant":
			return IdentityOf(r.Context()).Tenant, true
		case "identity.client":
			return IdentityOf(r.Context()).Client, true
		case "identity.scopes":
			return IdentityOf(r.Context()).Scopes, true
		case "body":
			if body == nil {
				return nil, true
			}
			return body(), true
		}
		return nil, false
	}
}

// firstOf returns the first value of each name.
func firstOf(values map[string][]string, lower bool) map[string]string {
	first := make(map[string]string, len(values))
	for name, all := range values {
		if lower {
			name = strings.ToLower(name)
		}
		if len(all) > 0 {
			first[name] = all[0]
		}
	}
	return first
}

// pathParams returns what the parameters of the route's path stand for.
func pathParams(r *http.Request) map[string]string {
	params := make(map[string]string)
	if route := chi.RouteContext(r.Context()); route != nil {
		for i, name := range route.URLParams.Keys {
			params[name] = route.URLParams.Values[i]
		}
	}
	return params
}
