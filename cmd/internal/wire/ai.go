package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/gateway"
)

// aiRoute is the AI route of the gateway with the configuration that it follows.
type aiRoute struct {
	*route.Handler
	live    *config.Live
	prompts http.Handler // nil: there are none
	gateway *gateway.Gateway
}

// newAI makes the AI route, or returns that of another role in this process.
func newAI(l lifecycle, c Config, process *Process, m money) (*aiRoute, error) {
	if process.ai != nil {
		return process.ai, nil
	}
	live, err := config.Load(c.AIFile, c.Lookup, process.Registry, process.Logger)
	if err != nil {
		return nil, err
	}
	observer, err := observe.New(process.Registry, nil)
	if err != nil {
		return nil, fmt.Errorf("AI route: %w", err)
	}
	made := new(aiRoute)
	settings := route.Config{Keeper: m.Keeper, Observer: observer, Logger: process.Logger}
	if m.Prompts != nil { // and so a role that makes calls which nobody waits for
		settings.Async = made.later
	}
	h := route.New(settings, live.Config())
	l.Hooks.Append(fx.StopHook(h.Close))
	made.Handler, made.live = h, live
	process.ai = made
	process.ai.prompts = promptHandler(process, m, process.ai)
	l.run("ai-config", process.ai.run)
	return process.ai, nil
}

// run follows the configuration.
func (a *aiRoute) run(ctx context.Context) error { return a.live.Run(ctx, a.SetConfig) }

// before returns a handler that takes what belongs to the AI route, asks for the
// credential that the gateway asks for, and leaves the rest to it.
func (a *aiRoute) before(next *gateway.Gateway) http.Handler {
	a.gateway = next // before anything is served
	models := a.Behind(next.Identify)
	var prompts http.Handler
	if a.prompts != nil {
		prompts = behind(next, a.prompts)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, route.Prefix) {
			if prompts != nil && (r.URL.Path == prompt.Base || strings.HasPrefix(r.URL.Path, prompt.Base+"/")) {
				prompts.ServeHTTP(w, r)
				return
			}
			models.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// behind asks for the credential that the gateway asks for.
func behind(g *gateway.Gateway, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity, header, problem := g.Identify(r)
		if problem == nil {
			next.ServeHTTP(w, r.WithContext(gateway.WithIdentity(r.Context(), identity)))
			return
		}
		maps.Copy(w.Header(), header)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(problem.Status)
		_ = json.NewEncoder(w).Encode(problem) // the client is gone when this fails
	})
}
