package wire

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/ai/route"
)

// aiRoute is the AI route of the gateway with the configuration that it follows.
type aiRoute struct {
	*route.Handler
	live    *config.Live
	prompts http.Handler // nil: there are none
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
	h := route.New(route.Config{Keeper: m.Keeper, Observer: observer, Logger: process.Logger}, live.Config())
	l.Hooks.Append(fx.StopHook(h.Close))
	process.ai = &aiRoute{Handler: h, live: live}
	process.ai.prompts = promptHandler(process, m, process.ai)
	l.run("ai-config", process.ai.run)
	return process.ai, nil
}

// run follows the configuration.
func (a *aiRoute) run(ctx context.Context) error { return a.live.Run(ctx, a.SetConfig) }

// before returns a handler that takes what belongs to the AI route and leaves the rest to
// next.
func (a *aiRoute) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, route.Prefix) {
			if a.prompts != nil && (r.URL.Path == prompt.Base || strings.HasPrefix(r.URL.Path, prompt.Base+"/")) {
				a.prompts.ServeHTTP(w, r)
				return
			}
			a.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
