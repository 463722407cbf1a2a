package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"go.uber.org/fx"
)

// stopTimeout is how long a role may take to finish what it has. It is longer
// than any batch, request or wait in it.
const stopTimeout = 40 * time.Second

// lifecycle is what a role's parts are started and stopped with.
type lifecycle struct {
	fx.In

	Hooks    fx.Lifecycle
	Shutdown fx.Shutdowner
	Logger   *slog.Logger
}

// run makes a blocking function part of the role: it starts with the role, its
// context ends when the role stops, and the role waits for it. A function that
// fails by itself stops the role with exit code 1.
func (l lifecycle) run(name string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.Hooks.Append(fx.Hook{
		OnStart: func(context.Context) error {
			go func() {
				defer close(done)
				if err := run(ctx); err != nil && ctx.Err() == nil {
					l.Logger.Error("part of the process failed", "part", name, "error", err)
					if err := l.Shutdown.Shutdown(fx.ExitCode(1)); err != nil {
						l.Logger.Error("process could not be told to stop", "error", err)
					}
				}
			}()
			return nil
		},
		OnStop: func(stop context.Context) error {
			cancel()
			select {
			case <-done:
				return nil
			case <-stop.Done():
				return fmt.Errorf("%s did not stop in time: %w", name, stop.Err())
			}
		},
	})
}

// serve makes an HTTP server part of the role. It stops by finishing the
// requests in hand, or as end does, which may be nil.
func (l lifecycle) serve(name string, server *http.Server, listener net.Listener, end func(context.Context, *http.Server) error) {
	l.Hooks.Append(fx.Hook{
		OnStart: func(context.Context) error {
			go func() {
				if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
					l.Logger.Error("part of the process failed", "part", name, "error", err)
					if err := l.Shutdown.Shutdown(fx.ExitCode(1)); err != nil {
						l.Logger.Error("process could not be told to stop", "error", err)
					}
				}
			}()
			return nil
		},
		OnStop: func(stop context.Context) error {
			if end == nil {
				end = func(ctx context.Context, server *http.Server) error { return server.Shutdown(ctx) }
			}
			if err := end(stop, server); err != nil {
				return fmt.Errorf("stop %s: %w", name, err)
			}
			return nil
		},
	})
}
