package docs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

const (
	// blockTimeout is for the slowest thing a page may do: build everything and
	// play the demo.
	blockTimeout = 5 * time.Minute
	stopTimeout  = time.Minute
	// insideEnv is set for the commands of a page.
	insideEnv = "INSIDE_DOCS_TEST"
)

// session is the terminal of a reader: one bash for a whole page.
type session struct {
	dir     string // of its scripts and outputs
	scratch string // copy of the repository
	where   addresses

	shell   *exec.Cmd
	input   io.WriteCloser
	codes   *bufio.Reader // what the shell tells after each block
	blocks  int
	process int    // group of the background block; 0: none
	output  string // of the block that ran last
}

// addresses are where the dev process really is.
type addresses struct{ http, admin string }

// openSession starts the shell in a copy of the repository at root. PATH begins with
// the folder of binary.
func openSession(ctx context.Context, root, dir, binary string, where addresses) (_ *session, err error) {
	s := &session{dir: dir, scratch: filepath.Join(dir, "countermand"), where: where}
	if err := copyRepository(root, s.scratch); err != nil {
		return nil, fmt.Errorf("copy the repository: %w", err)
	}
	tells, told, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = told.Close() }() // the shell has its own descriptor
	s.codes = bufio.NewReader(tells)
	s.shell = exec.CommandContext(ctx, "bash", "--noprofile", "--norc")
	s.shell.Dir = s.scratch
	s.shell.Env = append(product.Environment(
		"PATH="+filepath.Dir(binary)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"COUNTERMAND_HTTP_ADDR=127.0.0.1:0", "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0", // for dev processes of the page
	), insideEnv+"=1", "MAKEFLAGS=", "MAKELEVEL=", "MFLAGS=",
		// Without -trimpath every copy is compiled anew, for its path is in what is
		// compiled. What only debuggers need is not linked.
		"GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -trimpath -ldflags=-w"))
	s.shell.ExtraFiles = []*os.File{told} // descriptor 3
	s.shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.shell.WaitDelay = 10 * time.Second
	if s.input, err = s.shell.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.shell.Start(); err != nil {
		return nil, fmt.Errorf("start bash: %w", err)
	}
	return s, nil
}

// close ends the shell and everything it started.
func (s *session) close(ctx context.Context) error {
	err := s.stopBackground(ctx)
	_ = s.input.Close()
	cut := time.AfterFunc(stopTimeout, func() { _ = syscall.Kill(-s.shell.Process.Pid, syscall.SIGKILL) })
	defer cut.Stop()
	_ = s.shell.Wait() // its code is that of the last block
	return err
}

// play does what a block says.
func (s *session) play(ctx context.Context, b *block) error {
	switch {
	case b.output:
		return follows(s.output, b.text)
	case b.file != "":
		return s.writeFile(b.file, b.text)
	case b.patch:
		return s.patch(ctx, b.text)
	case !b.runs():
		return nil
	case b.background != "":
		return s.runBackground(ctx, b)
	}
	end := time.Now().Add(b.within)
	for {
		err := s.run(b)
		if err == nil || time.Now().After(end) || errors.Is(err, errShellGone) {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

var errShellGone = errors.New("the shell has ended")

// run runs a block to its end and checks what it gave.
func (s *session) run(b *block) error {
	script, output, err := s.script(b.text)
	if err != nil {
		return err
	}
	// With -e a command that fails ends the shell; where something else is wanted,
	// the code of the last command is told.
	strict := "-e"
	if b.exit > 0 || b.within > 0 {
		strict = "+e"
	}
	code, err := s.tell(fmt.Sprintf("export COUNTERMAND_ADMIN_URL=%s; set %s; . '%s' >'%s' 2>&1 </dev/null 3>&-; echo $? >&3", s.where.admin, strict, script, output))
	content, readErr := os.ReadFile(output)
	s.output = s.asWritten(string(content))
	if err = errors.Join(err, readErr); err != nil {
		return fmt.Errorf("%w; its output is:\n%s", err, s.output)
	}
	if code != b.exit {
		return fmt.Errorf("it ended with code %d, want %d; its output is:\n%s", code, b.exit, s.output)
	}
	for _, text := range b.expect {
		if !strings.Contains(s.output, text) {
			return fmt.Errorf("its output has no %q:\n%s", text, s.output)
		}
	}
	return nil
}

// runBackground starts a block and waits until it shows what it should.
func (s *session) runBackground(ctx context.Context, b *block) error {
	if err := s.stopBackground(ctx); err != nil {
		return err
	}
	script, output, err := s.script(b.text)
	if err != nil {
		return err
	}
	// With -m it is a process group of its own, which can be stopped as a whole.
	line := fmt.Sprintf("set -m; ( . '%s' ) >'%s' 2>&1 </dev/null 3>&- & set +m; echo $! >&3", script, output)
	if s.process, err = s.tell(line); err != nil {
		return err
	}
	var content []byte
	err = product.Await(ctx, blockTimeout, func() error {
		if content, err = os.ReadFile(output); err != nil {
			return err
		}
		if !strings.Contains(string(content), b.background) {
			return fmt.Errorf("its output has no %q:\n%s", b.background, content)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if ready := readyPattern.FindStringSubmatch(string(content)); ready != nil {
		s.where = addresses{http: ready[1], admin: ready[2]}
	}
	s.output = s.asWritten(string(content))
	return nil
}

var readyPattern = regexp.MustCompile(`(?m)^ready\s+http (\S+)\s+admin (\S+)`)

// stopBackground ends the background block as Ctrl-C would, and waits for it.
func (s *session) stopBackground(ctx context.Context) error {
	if s.process == 0 {
		return nil
	}
	group := -s.process
	s.process = 0
	_ = syscall.Kill(group, syscall.SIGINT) // it may have ended already
	told := time.Now()
	err := product.Await(ctx, stopTimeout, func() error {
		if errors.Is(syscall.Kill(group, 0), syscall.ESRCH) {
			return nil
		}
		// A shell goes on when the command that it waited for ended by itself in the
		// very moment: whoever sits before it presses Ctrl-C again.
		if time.Since(told) > 10*time.Second {
			_ = syscall.Kill(group, syscall.SIGINT)
			told = time.Now()
		}
		return errors.New("the background block does not stop")
	})
	if err != nil {
		_ = syscall.Kill(group, syscall.SIGKILL)
	}
	return err
}

// script writes the commands to a file, and returns it and the one for their
// output.
func (s *session) script(commands string) (script, output string, err error) {
	s.blocks++
	script = filepath.Join(s.dir, fmt.Sprintf("block-%d.sh", s.blocks))
	output = filepath.Join(s.dir, fmt.Sprintf("block-%d.out", s.blocks))
	return script, output, os.WriteFile(script, []byte(s.asServed(commands)), 0o600)
}

// tell has the shell execute a line, and returns the number that it tells.
func (s *session) tell(line string) (int, error) {
	if _, err := io.WriteString(s.input, line+"\n"); err != nil {
		return 0, fmt.Errorf("%w: %w", errShellGone, err)
	}
	cut := time.AfterFunc(blockTimeout, func() { _ = syscall.Kill(-s.shell.Process.Pid, syscall.SIGKILL) })
	defer cut.Stop()
	answer, err := s.codes.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("a command failed, or it took longer than %s: %w", blockTimeout, errShellGone)
	}
	return strconv.Atoi(strings.TrimSpace(answer))
}

// asServed puts the real addresses in the place of the default ones.
func (s *session) asServed(text string) string {
	http, admin := strings.TrimPrefix(s.where.http, "http://"), strings.TrimPrefix(s.where.admin, "http://")
	return strings.NewReplacer("127.0.0.1:8080", http, "localhost:8080", http, "127.0.0.1:8081", admin, "localhost:8081", admin).Replace(text)
}

// asWritten is asServed the other way round.
func (s *session) asWritten(text string) string {
	http, admin := strings.TrimPrefix(s.where.http, "http://"), strings.TrimPrefix(s.where.admin, "http://")
	return strings.NewReplacer(http, "127.0.0.1:8080", admin, "127.0.0.1:8081").Replace(text)
}

// writeFile makes text the content of a file of the scratch copy.
func (s *session) writeFile(path, text string) error {
	if !filepath.IsLocal(path) {
		return fmt.Errorf("file %q is not within the repository", path)
	}
	path = filepath.Join(s.scratch, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// patch applies a diff to the scratch copy.
func (s *session) patch(ctx context.Context, diff string) error {
	command := exec.CommandContext(ctx, "git", "apply", "--whitespace=nowarn", "-")
	command.Dir = s.scratch
	command.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+s.dir)
	command.Stdin = strings.NewReader(diff)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("the diff does not apply: %w\n%s", err, output)
	}
	return nil
}
