package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"syscall"
)

// portsTried is how many ports after a default one are tried.
const portsTried = 50

// listen opens addr, or fallback when addr is empty. A taken fallback port is
// replaced by the next free one, and the log says so; a taken addr is an error.
func listen(ctx context.Context, logger *slog.Logger, what, addr, fallback string) (net.Listener, error) {
	var config net.ListenConfig
	if addr != "" {
		l, err := config.Listen(ctx, "tcp", addr)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("%s listener: %w: end what uses it or choose another address; port 0 picks a free one", what, err)
		case err != nil:
			return nil, fmt.Errorf("%s listener: %w", what, err)
		}
		return l, nil
	}
	host, port, err := net.SplitHostPort(fallback)
	if err != nil {
		return nil, fmt.Errorf("%s listener: %w", what, err)
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("%s listener: port %q: %w", what, port, err)
	}
	for n := range portsTried {
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(first+n)))
		switch {
		case err == nil:
			if n > 0 {
				logger.WarnContext(ctx, "default port is taken, another one is used", "listener", what, "default", fallback, "address", l.Addr().String())
			}
			return l, nil
		case !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES):
			return nil, fmt.Errorf("%s listener: %w", what, err)
		}
	}
	return nil, fmt.Errorf("%s listener: ports %d to %d of %s are all taken", what, first, first+portsTried-1, host)
}
