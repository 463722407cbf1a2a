package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// checkTimeout bounds one readiness check, and with it a probe.
const checkTimeout = 2 * time.Second

// Health answers the two questions of an orchestrator: is the process alive, and
// may it get work. It is safe for concurrent use.
type Health struct {
	logger   *slog.Logger
	draining atomic.Bool

	mu     sync.Mutex
	checks []*check
}

// NewHealth returns a Health without checks, which is ready. The logger is told,
// with the whole error, when a check begins to fail and when it passes again.
func NewHealth(logger *slog.Logger) *Health { return &Health{logger: logger} }

// Add adds a readiness check. The name is shown to whoever asks. A check must
// heed its context, which ends after two seconds; it never runs twice at a time,
// however many probes ask.
func (h *Health) Add(name string, run func(context.Context) error) {
	h.add(&check{name: name, run: run, logger: h.logger})
}

// Note adds a check that is shown and logged like any other, and that does not make the
// process unready: of something without which it can still work.
func (h *Health) Note(name string, run func(context.Context) error) {
	h.add(&check{name: name, run: run, logger: h.logger, spare: true})
}

func (h *Health) add(c *check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, c)
}

// SetDraining makes the process not ready for good, so that no new work is sent
// to it while it finishes what it has.
func (h *Health) SetDraining() { h.draining.Store(true) }

// Status of a report and of its checks.
const (
	statusReady    = "ready"
	statusNotReady = "not_ready"
	statusDraining = "draining"
	statusOK       = "ok"
	statusFailed   = "failed"
)

type report struct {
	Status string                 `json:"status"`
	Checks map[string]checkResult `json:"checks"`
}

type checkResult struct {
	Status string `json:"status"`
	// Error is the class of the error, not its text, which may name hosts.
	Error      string  `json:"error,omitempty"`
	DurationMS float64 `json:"duration_ms"`
}

// Livez answers that the process runs. It checks nothing else: a dependency that
// is down must not get this process restarted.
func (h *Health) Livez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

// Readyz runs the checks and answers 200 when all that decide pass, else 503, with the
// result of each. A draining process is not ready whatever they say.
func (h *Health) Readyz(w http.ResponseWriter, r *http.Request) {
	result := h.report(r.Context())
	code := http.StatusOK
	if result.Status != statusReady {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, result)
}

func (h *Health) report(ctx context.Context) report {
	h.mu.Lock()
	checks := slices.Clip(h.checks)
	h.mu.Unlock()
	running := make([]*checkRun, len(checks))
	for i, one := range checks {
		running[i] = one.start(ctx)
	}
	result := report{Status: statusReady, Checks: make(map[string]checkResult, len(checks))}
	timeout := time.NewTimer(checkTimeout + checkTimeout/10) // for a check that does not heed its context
	defer timeout.Stop()
	late := false
	for i, run := range running {
		outcome := checkResult{Status: statusFailed, Error: "timeout", DurationMS: milliseconds(checkTimeout)}
		if !late {
			select {
			case <-run.done:
			case <-timeout.C:
				late = true
			}
		}
		select {
		case <-run.done:
			outcome = run.result
		default:
		}
		if outcome.Status != statusOK && !checks[i].spare {
			result.Status = statusNotReady
		}
		result.Checks[checks[i].name] = outcome
	}
	if h.draining.Load() {
		result.Status = statusDraining
	}
	return result
}

// check is a readiness check of which at most one run exists at a time: probes
// that come meanwhile share it, and a run that hangs holds one goroutine, not one
// per probe.
type check struct {
	name   string
	run    func(context.Context) error
	logger *slog.Logger
	spare  bool // it decides nothing

	mu      sync.Mutex
	current *checkRun // nil when none is running
	failing bool
}

type checkRun struct {
	done   chan struct{}
	result checkResult // may be read once done is closed
}

func (c *check) start(ctx context.Context) *checkRun {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		return c.current
	}
	current := &checkRun{done: make(chan struct{})}
	c.current = current
	go c.perform(context.WithoutCancel(ctx), current) // other probes may wait for it too
	return current
}

func (c *check) perform(ctx context.Context, current *checkRun) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	start := time.Now()
	err := c.run(ctx)
	current.result = checkResult{Status: statusOK, DurationMS: milliseconds(time.Since(start))}
	if err != nil {
		current.result.Status, current.result.Error = statusFailed, errorClass(err)
	}
	c.mu.Lock()
	c.current = nil
	changed := c.failing != (err != nil)
	c.failing = err != nil
	c.mu.Unlock()
	defer close(current.done)
	switch {
	case changed && err != nil:
		c.logger.WarnContext(ctx, "readiness check fails", slog.String("check", c.name), slog.Any("error", err))
	case changed:
		c.logger.InfoContext(ctx, "readiness check passes again", slog.String("check", c.name))
	}
}

// errorClass says of an error what may be shown to anybody.
func errorClass(err error) string {
	var netErr net.Error
	isNet := errors.As(err, &netErr)
	switch {
	case errors.Is(err, context.DeadlineExceeded), isNet && netErr.Timeout():
		return "timeout"
	case isNet:
		return "unreachable"
	}
	return "failed"
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
