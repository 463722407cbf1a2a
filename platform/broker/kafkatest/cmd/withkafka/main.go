// Command withkafka runs a command with a throw-away Kafka server:
//
//	withkafka -- go test ./...      a real one, or else the fake, and says which
//	withkafka -real -- go test ./...  a real one, or it fails
//	withkafka -fake -- go test ./...  the fake
//	withkafka -real                   and no command: until it is interrupted
//
// The command finds the server's address in COUNTERMAND_TEST_KAFKA_BROKERS, and
// real or fake in COUNTERMAND_TEST_KAFKA. It gets signals passed on, and its exit
// code is withkafka's. 1 means that the server could not be started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/countermand/countermand/platform/broker/kafkatest"
)

func main() {
	onlyReal := flag.Bool("real", false, "fail where a real Kafka cannot be had")
	onlyFake := flag.Bool("fake", false, "use the fake that speaks the protocol in this process")
	flag.Parse()
	code, err := run(*onlyReal, *onlyFake, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "withkafka:", err)
	}
	os.Exit(code)
}

// server is a Kafka of either kind.
type server interface {
	Addr() string
	Stop() error
}

func run(onlyReal, onlyFake bool, args []string) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "countermand-kafka-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, kind, err := start(ctx, onlyReal, onlyFake, dir)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	fmt.Fprintf(os.Stderr, "withkafka: %s Kafka listens on %s\n", kind, s.Addr())
	if len(args) == 0 {
		fmt.Printf("COUNTERMAND_BROKER=kafka KAFKA_BROKERS=%s\n", s.Addr())
		<-ctx.Done()
		return 0, nil
	}
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.Env = append(os.Environ(), "COUNTERMAND_TEST_KAFKA="+kind, "COUNTERMAND_TEST_KAFKA_BROKERS="+s.Addr())
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := command.Run(); err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	return command.ProcessState.ExitCode(), nil
}

func start(ctx context.Context, onlyReal, onlyFake bool, dir string) (s server, kind string, err error) {
	if onlyFake {
		s, err = kafkatest.StartFake(dir, 1)
		return s, "fake", err
	}
	installation, err := kafkatest.Install(ctx, func(step string) { fmt.Fprintln(os.Stderr, "withkafka:", step) })
	if errors.Is(err, kafkatest.ErrNotHere) && !onlyReal {
		loudly(err)
		s, err = kafkatest.StartFake(dir, 1)
		return s, "fake", err
	}
	if err != nil {
		return nil, "", err
	}
	s, err = kafkatest.StartReal(ctx, installation, dir)
	return s, "real", err
}

// loudly says that what follows proves less than was asked for.
func loudly(err error) {
	line := strings.Repeat("!", 78)
	fmt.Fprintf(os.Stderr, "%s\n! NO REAL KAFKA: what follows runs on a fake, which has no replicas and no disk.\n! %s\n%s\n", line, err, line)
}
