package wire

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/gateway"
)

// aiRoute is the AI route of the gateway with the configuration that it follows.
type aiRoute struct {
	*route.Handler
	live *config.Live
}

func newAI(l lifecycle, c Config, process *Process) (*aiRoute, error) {
	live, err := config.Load(c.AIFile, c.Lookup, process.Registry, process.Logger)
	if err != nil {
		return nil, err
	}
	prices, err := price.New(price.Overlay{})
	if err != nil {
		return nil, fmt.Errorf("prices: %w", err)
	}
	observer, err := observe.New(process.Registry, nil)
	if err != nil {
		return nil, fmt.Errorf("AI route: %w", err)
	}
	h := route.New(route.Config{Keeper: budget.Unkept(prices), Observer: observer, Logger: process.Logger}, live.Config())
	l.Hooks.Append(fx.StopHook(h.Close))
	return &aiRoute{h, live}, nil
}

// run follows the configuration.
func (a *aiRoute) run(ctx context.Context) error { return a.live.Run(ctx, a.SetConfig) }

// before returns a handler that takes what belongs to the AI route, asks for the
// credential that the gateway asks for, and leaves the rest to it.
func (a *aiRoute) before(next *gateway.Gateway) http.Handler {
	models := a.Behind(next.Identify)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, route.Prefix) {
			models.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
