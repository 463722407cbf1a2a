package product

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// Result is what became of a command line.
type Result struct {
	Stdout string
	Stderr string
	Code   int
}

// Run runs a command line of the binary to its end. A code other than 0 is no
// error of Run's. When ctx ends, the command gets SIGTERM.
func Run(ctx context.Context, binary string, env []string, args ...string) (Result, error) {
	command := exec.CommandContext(ctx, binary, args...)
	command.Env = Environment(env...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = time.Minute
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		result.Code = exit.ExitCode()
	case err != nil:
		return result, fmt.Errorf("run countermand %v: %w", args, err)
	}
	return result, nil
}
