package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"

	"github.com/countermand/countermand/platform/gateway"
)

// partRole names, in the environment of a process of this program, which part of a
// benchmark it is. Each part is a process, so that its CPU can be told apart.
const partRole = "COUNTERMAND_BENCH_PART"

// part is a running process of this program.
type part struct {
	pid   int
	url   string
	close func()
}

// servePart serves one part until its input ends, and prints where.
func servePart(role string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as the binaries do
	}
	switch role {
	case "upstream":
		return serveHandler(aiMock())
	case "proxy":
		handler, err := aiProxy(os.Getenv(aiUpstream))
		if err != nil {
			return err
		}
		return serveHandler(handler)
	case "gateway":
		handler, err := aiGateway(os.Getenv(aiUpstream), os.Getenv(aiDatabase))
		if err != nil {
			return err
		}
		return serveHandler(handler)
	case "nothing":
		return serveHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	case "jetstream":
		return serveJetStream(os.Getenv(acceptFolder), os.Getenv(acceptSync) == syncDefault)
	}
	return fmt.Errorf("there is no part %q", role)
}

// serveHandler serves behind the limits that the gateway's server has.
func serveHandler(handler http.Handler) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is asked for once, and at once
	if err != nil {
		return err
	}
	server := gateway.NewServer("", handler, slog.New(slog.DiscardHandler))
	fmt.Printf("http://%s\n", listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startPart starts a process of this program and returns when it serves.
func startPart(ctx context.Context, role string, environment ...string) (*part, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, binary)
	command.Env = append(append(os.Environ(), partRole+"="+role), environment...)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	end := func() {
		_ = input.Close()
		_ = command.Wait() // it ends with its input
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		end()
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	return &part{pid: command.Process.Pid, url: strings.TrimSpace(line), close: end}, nil
}
