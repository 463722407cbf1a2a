// Command withpostgres runs a command with a throw-away PostgreSQL server for
// its tests:
//
//	withpostgres -- go test ./...
//
// The command finds the server's admin URL in COUNTERMAND_TEST_DATABASE_URL,
// where package embeddedtest looks for it, so all test packages share one server, and
// the server's version in COUNTERMAND_TEST_DATABASE_SERVER. When the first variable is
// set already, the command runs with both as they are.
// Signals are passed on to the command. withpostgres exits with the command's
// exit code, with 128 plus the signal's number when a signal ended it, and with
// 1 when the server or the command could not be started.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/embedded/internal/tempserver"
)

var passedOn = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: withpostgres -- command [argument ...]")
		os.Exit(2)
	}
	code, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpostgres:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	// From here on no signal ends us before the server is stopped.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)

	env := os.Environ()
	if os.Getenv(embeddedtest.DatabaseURLEnv) == "" {
		server, err := startServer()
		if err != nil {
			return 1, err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if stopErr := errors.Join(server.Err(), server.Stop(ctx)); stopErr != nil {
				code, err = max(code, 1), errors.Join(err, stopErr)
			}
		}()
		version, err := serverVersion(server.AdminURL())
		if err != nil {
			return 1, err
		}
		env = append(env, embeddedtest.DatabaseURLEnv+"="+server.AdminURL(), embeddedtest.DatabaseServerEnv+"="+version)
	}

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return runCommand(cmd, signals)
}

// startServer gives up when a signal comes.
func startServer() (*tempserver.Server, error) {
	ctx, stop := signal.NotifyContext(context.Background(), passedOn...)
	defer stop()
	return tempserver.Start(ctx, func(step string) { fmt.Fprintln(os.Stderr, "withpostgres:", step) })
}

// serverVersion asks the server, because the same path may lead to another program
// tomorrow.
func serverVersion(url string) (version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", fmt.Errorf("ask the server for its version: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, "SELECT version()").Scan(&version); err != nil {
		return "", fmt.Errorf("ask the server for its version: %w", err)
	}
	return version, nil
}

func runCommand(cmd *exec.Cmd, signals <-chan os.Signal) (int, error) {
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			// The command may just have ended; then ended says so.
			_ = cmd.Process.Signal(sig)
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 1, fmt.Errorf("wait for command: %w", err)
			}
			return exitCode(cmd.ProcessState), nil
		}
	}
}

func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
