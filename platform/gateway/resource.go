package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// Resource is something the gateway always serves beside operations, at a path of its
// own. A request to it has passed what every request has to, and carries the identity of
// its sender, see [IdentityOf]; path parameters are read with [http.Request.PathValue].
type Resource struct {
	// ID names it in metrics and logs.
	ID string
	// Methods that it serves. GET includes HEAD.
	Methods []string
	// Path is a pattern below one of the reserved paths.
	Path    string
	Handler http.Handler
	// Open serves requests without asking who sends them.
	Open bool
}

// mountResources has the resources of other packages served.
func (s *snapshot) mountResources(g *Gateway, resources []Resource) {
	for _, resource := range resources {
		for _, method := range resource.Methods {
			serve := handler(func(x *exchange, r *http.Request) { resource.Handler.ServeHTTP(x, r) })
			mount := s.mount
			if !resource.Open {
				serve = g.authenticated(s, s.table.auth.ofResource(method), serve)
			}
			mount(g, resource.ID, method, resource.Path, serve)
			if method == http.MethodGet {
				mount(g, resource.ID, http.MethodHead, resource.Path, serve)
			}
		}
	}
}

// Answer answers a request to a [Resource] with a problem. Its type, and the trace and
// the instance unless they are given, are filled in.
func Answer(w http.ResponseWriter, r *http.Request, p *Problem) {
	x, ok := w.(*exchange)
	if !ok { // not behind a gateway, as in a test
		x = &exchange{ResponseWriter: w, endpoint: &endpoint{}, logger: slog.Default(), started: time.Now()}
	}
	if p.Type == "" {
		p.Type = problemType(p.Code)
	}
	x.problem(r, p)
}
