package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// readyTimeout is how long a role may take to serve.
const readyTimeout = 60 * time.Second

// child is a role that runs as a process of its own.
type child struct {
	role    string
	env     []string
	logs    string
	command *exec.Cmd
	ready   wire.Ready
}

// start runs the role and returns when it serves. It can be called again after
// the process has ended; an address that the first start picked is kept.
func (c *child) start(ctx context.Context) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start %s: %w", c.role, err)
	}
	log, err := os.OpenFile(filepath.Join(c.logs, c.role+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.role, err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	address := "127.0.0.1:0"
	if c.ready.HTTP != "" {
		address = c.ready.HTTP[len("http://"):]
	}
	c.command = exec.Command(executable, "serve", c.role)
	c.command.Env = append(append(os.Environ(), c.env...), "COUNTERMAND_HTTP_ADDR="+address, "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0",
		"COUNTERMAND_LOG_FORMAT=json")
	c.command.Stderr = log
	c.command.SysProcAttr = childAttributes()
	stdout, err := c.command.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", c.role, err)
	}
	if err := c.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.role, err)
	}
	line := make(chan error, 1) // the reader never waits for us
	go func() {
		reader := bufio.NewReader(stdout)
		text, err := reader.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(text, &c.ready)
		}
		line <- err
		_, _ = io.Copy(io.Discard, reader)
	}()
	select {
	case err = <-line:
	case <-time.After(readyTimeout):
		err = fmt.Errorf("not ready within %s", readyTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.kill()
		return fmt.Errorf("start %s: %w; its log is %s", c.role, err, log.Name())
	}
	return nil
}

// kill ends the process as a power cut would: at once, without a word.
func (c *child) kill() {
	if c.command == nil || c.command.Process == nil {
		return
	}
	_ = c.command.Process.Kill() // it may have ended already
	_ = c.command.Wait()
	c.command = nil
}

// stop lets the process drain, and kills it when that takes too long.
func (c *child) stop() error {
	if c.command == nil {
		return nil
	}
	if err := c.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.role, err)
	}
	cut := time.AfterFunc(30*time.Second, func() { _ = c.command.Process.Kill() })
	defer cut.Stop()
	err := c.command.Wait()
	c.command = nil
	if err != nil {
		return fmt.Errorf("stop %s: %w", c.role, err)
	}
	return nil
}
