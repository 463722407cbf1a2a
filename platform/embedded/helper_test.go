package embedded

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// helperProcess is another process that runs one of helperParts.
type helperProcess struct {
	*exec.Cmd
	out   *bufio.Scanner
	stdin io.Closer
}

// startHelper starts a part. It ends with the test at the latest.
func startHelper(t *testing.T, part string, args ...string) *helperProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &helperProcess{Cmd: exec.Command(self, args...)}
	h.Env = append(os.Environ(), helperEnv+"="+part)
	h.Stderr = os.Stderr
	in, err := h.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.stdin = in
	out, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewScanner(out)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Process.Kill()
		h.Wait()
	})
	return h
}

// line returns the next line that the part prints; the part telling of an error
// or ending fails the test.
func (h *helperProcess) line(t *testing.T) string {
	t.Helper()
	if !h.out.Scan() {
		t.Fatalf("helper ended early: %v", h.out.Err())
	}
	line := h.out.Text()
	if strings.HasPrefix(line, "error:") {
		t.Fatalf("helper: %s", line)
	}
	return line
}

// kill9 ends the process as a crash would and waits for its death.
func (h *helperProcess) kill9(t *testing.T) {
	t.Helper()
	if err := h.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.Wait()
}

// hold is the part of a process that is just there.
func hold([]string) error {
	fmt.Println("here")
	holdUntilKilled()
	return nil
}

// holdUntilKilled keeps a part going for as long as the test holds its stdin.
func holdUntilKilled() {
	io.Copy(io.Discard, os.Stdin)
}
