package chaos

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/embedded"
)

// natsAddr and natsStore are set in the environment of a process of this test
// binary that is to be a NATS server.
const (
	natsAddr     = "CHAOS_NATS_ADDR"
	natsStore    = "CHAOS_NATS_STORE"
	natsPassword = "for the chaos tests only"
)

// natsServer is the embedded NATS server as a process of its own, which can be
// killed without taking the test with it.
type natsServer struct {
	url     string // the same for every process that is the server
	addr    string
	dir     string
	log     *os.File
	command *exec.Cmd
	life    io.Closer // the server ends when this does
}

// startNATS starts a server on a free port. It is killed when the test ends.
func startNATS(t *testing.T, dir string) *natsServer {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &natsServer{addr: free.Addr().String(), dir: dir, log: openLog(t, t.TempDir(), "nats")}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// start starts the server, on what an earlier one left, and returns when it takes
// connections.
func (s *natsServer) start(t *testing.T) {
	t.Helper()
	const timeout = 30 * time.Second
	s.command = exec.Command(os.Args[0])
	s.command.Env = append(os.Environ(), natsAddr+"="+s.addr, natsStore+"="+s.dir)
	s.command.Stderr = s.log
	stdout, err := s.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.life, err = s.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan error, 1) // the reader never waits for us
	go func() {
		line, err := bufio.NewReader(stdout).ReadString('\n')
		s.url = strings.TrimSpace(line)
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-time.After(timeout):
		err = fmt.Errorf("not ready within %s", timeout)
	}
	if err != nil {
		s.kill()
		t.Fatalf("start the NATS server: %v", err)
	}
}

// freeze has the server stand still: it takes what is sent to it and does nothing.
func (s *natsServer) freeze(t *testing.T) {
	t.Helper()
	if err := s.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// kill ends the server with SIGKILL.
func (s *natsServer) kill() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Kill() // it may have ended already
	_ = s.command.Wait()         // which says that it was killed
	_ = s.life.Close()
	s.command = nil
}

// serveNATS is the server's process. It serves until it is killed, or until the
// process that started it has ended.
func serveNATS(addr, store string) error {
	s, err := embedded.StartNATS(embedded.NATSConfig{StoreDir: store, Listen: addr, Password: natsPassword})
	if err != nil {
		return err
	}
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Stop()
	return nil
}
