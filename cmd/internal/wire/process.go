package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/telemetry"
)

// Process is what the roles of one operating system process share.
type Process struct {
	Logger    *slog.Logger
	Registry  *prometheus.Registry
	Health    *telemetry.Health
	Telemetry *telemetry.Telemetry
	Admin     *http.ServeMux
	Version   string
	Messaging *admin.Messaging // of the roles, on Admin
	// Broker is that of all roles; nil: each makes its own.
	Broker broker.Broker
	// money is what the role of AI calls keeps; nil: it is not in this process.
	money *money
	// ai is the AI route of the roles that have one.
	ai *aiRoute

	listener net.Listener
	server   *http.Server
}

// gcPercent makes the collector run a quarter as often as by default: a process
// holds some 20 MB, and collecting took a tenth of its CPU. GOGC wins over it.
const gcPercent = 400

// NewProcess sets logging, tracing, metrics and health up. service names the
// process in traces.
func NewProcess(ctx context.Context, service, version string, logger *slog.Logger) (*Process, error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tracing, err := telemetry.Start(ctx, telemetry.Config{Service: service, Version: version, Logger: logger})
	if err != nil {
		return nil, err
	}
	p := &Process{
		Logger: logger, Registry: telemetry.NewRegistry(), Health: telemetry.NewHealth(logger), Telemetry: tracing, Version: version,
		Messaging: new(admin.Messaging),
	}
	p.Admin = telemetry.NewAdminMux(p.Registry, p.Health, version)
	admin.RegisterMessaging(p.Admin, p.Messaging, logger)
	return p, nil
}

// ServeAdmin opens the admin listener and serves metrics, health and the admin
// API on it until Close. It warns of an address that is not loopback, since the
// listener asks for no credential: containers need one, on a private network.
func (p *Process) ServeAdmin(ctx context.Context, addr string) error {
	l, err := listen(ctx, p.Logger, "admin", addr, DefaultAdminAddr)
	if err != nil {
		return err
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		p.Logger.WarnContext(ctx, "admin listener is not on loopback; it asks for no credential, so keep its network private",
			"address", l.Addr().String())
	}
	p.listener = l
	p.server = &http.Server{Handler: p.Admin, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.Logger.ErrorContext(ctx, "admin listener failed", "error", err)
		}
	}()
	return nil
}

// AdminURL returns the URL of the admin listener.
func (p *Process) AdminURL() string { return "http://" + p.listener.Addr().String() }

// Close stops the admin listener and exports the last spans.
func (p *Process) Close(ctx context.Context) error {
	var errs []error
	if p.server != nil {
		errs = append(errs, p.server.Shutdown(ctx))
	}
	errs = append(errs, p.Telemetry.Shutdown(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close process: %w", err)
	}
	return nil
}
