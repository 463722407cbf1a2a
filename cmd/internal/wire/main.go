package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// Exit codes of every binary.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitUnreachable = 3
)

// Ready is the line that a process prints on stdout when it serves.
type Ready struct {
	Event string `json:"event"` // "ready"
	Role  string `json:"role,omitempty"`
	HTTP  string `json:"http,omitempty"`
	Admin string `json:"admin"`
	// Open says that routes ask for no credential unless they say so. People are
	// told; the JSON has nothing but names and addresses.
	Open bool `json:"-"`
}

// Print writes the line, as JSON or for people.
func (r Ready) Print(w io.Writer, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(w).Encode(r) // stdout is closed when this fails, and nobody listens
		return
	}
	line := "ready"
	if r.Role != "" {
		line += "  role " + r.Role
	}
	if r.HTTP != "" {
		line += "  http " + r.HTTP
	}
	line += "  admin " + r.Admin
	if r.Open {
		line += "  open: no credential is asked for"
	}
	fmt.Fprintln(w, line)
}

// version is set by the linker where the toolchain has no repository to ask, as in the
// build of an image.
var version string

// Version returns the version of the binary: the one that it was linked with, or else as
// the Go toolchain recorded it.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	recorded := info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 && (recorded == "" || recorded == "(devel)") {
			recorded = setting.Value[:12]
		}
	}
	if recorded == "" || recorded == "(devel)" {
		return "development"
	}
	return recorded
}

// Main runs one role as a process of its own until SIGINT, SIGTERM or a failure,
// and returns its exit code. It prints a [Ready] line on stdout.
func Main(role string) int {
	logger, err := NewLogger(slog.LevelInfo)
	if err != nil {
		fmt.Fprintln(os.Stderr, "countermand:", err)
		return ExitUsage
	}
	config, err := FromEnvironment(role)
	if err == nil && role == Gateway {
		err = CheckRoutes(config.RoutesFile)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "countermand: %s cannot start:\n%v\n", role, err)
		return ExitUsage
	}
	if err := serveRole(config, logger); err != nil {
		logger.Error("process ended", "role", role, "error", err)
		return ExitFailed
	}
	return ExitOK
}

func serveRole(config Config, logger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	process, err := NewProcess(ctx, config.Role, Version(), logger)
	if err != nil {
		return err
	}
	defer closeProcess(process)
	if err := process.ServeAdmin(ctx, config.AdminAddr); err != nil {
		return err
	}
	role, err := Start(ctx, config, process)
	if err != nil {
		return err
	}
	Ready{Event: "ready", Role: config.Role, HTTP: role.URL, Open: role.Open, Admin: process.AdminURL()}.Print(os.Stdout, true)
	failed := role.Wait(ctx)
	if failed == nil {
		logger.Info("stopping", "role", config.Role)
	}
	stop() // a second signal ends the process at once
	process.Health.SetDraining()
	end, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := role.Stop(end); err != nil {
		return err
	}
	return failed
}

func closeProcess(process *Process) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout/4)
	defer cancel()
	if err := process.Close(ctx); err != nil {
		process.Logger.Warn("process did not close cleanly", "error", err)
	}
}
