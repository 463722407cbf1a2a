package product

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a running process of the product that serves.
type Process struct {
	HTTP  string // base URL of the public listener; empty for a role without one
	Admin string // base URL of the admin listener
	PID   int
	// ReadyLine is the line that said so.
	ReadyLine string

	command *exec.Cmd
	exited  chan struct{}
	stdout  bytes.Buffer // what came after the ready line; read it after exited
	err     error
}

// Dev is a running `countermand dev`.
type Dev = Process

// readyTimeout is how long a start may take, the making of a database included.
const readyTimeout = 2 * time.Minute

// StartDev runs the binary's dev command on dataDir and free ports and returns
// when it serves. Its log goes to log.
func StartDev(ctx context.Context, binary, dataDir string, log io.Writer, env ...string) (*Dev, error) {
	return Start(ctx, binary, log, env, "dev", "--json", "--data-dir", dataDir, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")
}

// Start runs a command of the binary that serves until it is told to stop, and
// returns when it has said that it is ready. Its log goes to log.
func Start(ctx context.Context, binary string, log io.Writer, env []string, args ...string) (*Process, error) {
	fail := func(err error) error { return fmt.Errorf("start countermand %s: %w", strings.Join(args, " "), err) }
	command := exec.Command(binary, args...) // it outlives ctx, which bounds the start
	command.Env = Environment(append(brokerFor(args), env...)...)
	command.Stderr = log
	command.WaitDelay = 10 * time.Second // should a grandchild keep the log open
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, fail(err)
	}
	if err := command.Start(); err != nil {
		return nil, fail(err)
	}
	p := &Process{PID: command.Process.Pid, command: command, exited: make(chan struct{})}
	ready := make(chan error, 1) // the reader never waits for us
	go func() {
		reader := bufio.NewReader(stdout)
		line, err := reader.ReadString('\n')
		if err == nil {
			err = p.parseReady(strings.TrimSuffix(line, "\n"))
		}
		ready <- err
		_, _ = io.Copy(&p.stdout, reader)
		p.err = command.Wait() // after the pipe is read to its end
		close(p.exited)
	}()
	select {
	case err = <-ready:
	case <-time.After(readyTimeout):
		err = fmt.Errorf("not ready within %s", readyTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		p.Kill()
		return nil, fail(fmt.Errorf("%w; it ended with: %s", err, exitState(p.err)))
	}
	return p, nil
}

func exitState(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// parseReady reads the ready line in either of its forms.
func (p *Process) parseReady(line string) error {
	p.ReadyLine = line
	if strings.HasPrefix(line, "{") {
		var ready struct{ Event, HTTP, Admin string }
		if err := json.Unmarshal([]byte(line), &ready); err != nil || ready.Event != "ready" {
			return fmt.Errorf("%q is no ready line", line)
		}
		p.HTTP, p.Admin = ready.HTTP, ready.Admin
		return nil
	}
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "ready" {
		return fmt.Errorf("%q is no ready line", line)
	}
	for i, word := range words[:len(words)-1] {
		switch word {
		case "http":
			p.HTTP = words[i+1]
		case "admin":
			p.Admin = words[i+1]
		}
	}
	return nil
}

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = p.command.Process.Kill() // it may have ended already
	<-p.exited
}

// KillTree ends the process and everything below it with SIGKILL at once, as a
// power cut would, and waits for it.
func (p *Process) KillTree(ctx context.Context) error {
	below, err := Descendants(ctx, p.PID)
	if err != nil {
		return err
	}
	_ = p.command.Process.Kill()
	for _, pid := range below {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
	}
	<-p.exited
	return nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(signal os.Signal) error { return p.command.Process.Signal(signal) }

// Stop sends SIGTERM and waits for the process to drain. It fails when the
// process does not end well within a minute.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop: %w", err)
	}
	return p.Wait()
}

// Wait waits at most a minute for a process that was told to stop. It fails when
// the process does not end by then, which kills it, or not with exit code 0.
func (p *Process) Wait() error {
	select {
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("stop: %w", p.err)
		}
		return nil
	case <-time.After(time.Minute):
		p.Kill()
		return errors.New("stop: it did not end within a minute")
	}
}

// Output returns what a process that has ended wrote to stdout after its ready
// line.
func (p *Process) Output() string {
	<-p.exited
	return p.stdout.String()
}
