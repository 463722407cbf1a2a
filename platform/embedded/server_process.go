//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	stopGrace      = 30 * time.Second
	immediateGrace = 10 * time.Second
)

// serverProcess is a running postmaster, our child.
type serverProcess struct {
	cmd    *exec.Cmd
	log    *serverLog
	logger *slog.Logger
	done   chan struct{}

	mu       sync.Mutex
	stopping bool
	err      error // why it ended unasked
}

// stopSignal is what the server gets from us, and from the kernel when we die:
// a fast shutdown leaves nothing to replay. Without sync there is nothing to
// save, so a dead owner's server quits at once.
func stopSignal(noSync bool) syscall.Signal {
	if noSync {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// launch starts cmd and watches it from one goroutine with an operating system
// thread of its own: the kernel sends a parent death signal when the thread
// that started the child ends, which for this thread is never before the child.
func launch(cmd *exec.Cmd, log *serverLog, logger *slog.Logger) (*serverProcess, error) {
	cmd.Stdout, cmd.Stderr = log, log
	// Backends may hold the log pipe for a moment longer than their postmaster.
	cmd.WaitDelay = 2 * time.Second
	s := &serverProcess{cmd: cmd, log: log, logger: logger, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.watch(cmd.Wait())
		}
	}()
	if err := <-started; err != nil {
		log.close()
		return nil, fmt.Errorf("run %q: %w", cmd.Path, err)
	}
	return s, nil
}

// watch records how the server ended, given what Wait returned.
func (s *serverProcess) watch(err error) {
	s.mu.Lock()
	if !s.stopping {
		s.err = fmt.Errorf("postgres ended by itself (%s)%s", s.cmd.ProcessState, quoteOutput(s.log.tail()))
		s.logger.Error("postgres ended by itself", "pid", s.cmd.Process.Pid, "state", s.cmd.ProcessState.String(), "error", err)
	}
	s.mu.Unlock()
	s.log.close()
	close(s.done)
}

func (s *serverProcess) exitError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// waitReady waits until the server says in its pid file that it accepts
// connections, as pg_ctl does.
func (s *serverProcess) waitReady(ctx context.Context, dir dataDir, progress func(string)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	slow := time.NewTimer(3 * time.Second)
	defer slow.Stop()
	for {
		if pm, ok := dir.postmaster(); ok && pm.pid == s.cmd.Process.Pid && pm.status == "ready" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the server: %w", context.Cause(ctx))
		case <-s.done:
			return s.exitError()
		case <-slow.C:
			progress("Waiting for PostgreSQL " + strconv.Itoa(s.cmd.Process.Pid) + " to recover its database")
		case <-tick.C:
		}
	}
}

// stop ends the server: fast, at once when that takes too long or ctx ends, and
// by force as the last resort. It returns nil when the server is gone.
func (s *serverProcess) stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()

	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	if err := s.signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-s.done:
		return nil
	case <-grace.C:
	case <-ctx.Done():
	}
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		s.logger.WarnContext(ctx, "postgres did not stop in time", "pid", s.cmd.Process.Pid, "signal", sig.String())
		if err := s.signal(sig); err != nil {
			return err
		}
		select {
		case <-s.done:
			return nil
		case <-time.After(immediateGrace):
		}
	}
	return fmt.Errorf("process %d does not end", s.cmd.Process.Pid)
}

func (s *serverProcess) signal(sig syscall.Signal) error {
	err := s.cmd.Process.Signal(sig)
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return fmt.Errorf("signal process %d: %w", s.cmd.Process.Pid, err)
}
