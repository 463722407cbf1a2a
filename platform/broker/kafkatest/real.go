package kafkatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// minSession is the shortest session of a group member that the servers take.
// Tests wait for dead members, and need not wait as long as production does.
const minSession = time.Second

// Real is an Apache Kafka with one node, in a process of its own.
type Real struct {
	installation *Installation
	dir          string
	port         int
	process      *exec.Cmd
	ended        chan struct{}
}

// StartReal starts a server with its state in dir, on free ports of loopback, and
// returns when it answers.
func StartReal(ctx context.Context, installation *Installation, dir string) (*Real, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	controller, err := freePort()
	if err != nil {
		return nil, err
	}
	r := &Real{installation: installation, dir: dir, port: port}
	if err := os.WriteFile(r.settings(), []byte(settings(port, controller, filepath.Join(dir, "log"))), 0o600); err != nil {
		return nil, err
	}
	id, err := r.java(ctx, "kafka.tools.StorageTool", "random-uuid").Output()
	if err != nil {
		return nil, fmt.Errorf("make a cluster id: %w", err)
	}
	format := r.java(ctx, "kafka.tools.StorageTool", "format", "-t", string(bytes.TrimSpace(id)), "-c", r.settings())
	if output, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format %s: %w\n%s", dir, err, tail(output, 10))
	}
	return r, r.Start(ctx)
}

func (r *Real) settings() string { return filepath.Join(r.dir, "server.properties") }

// settings of a single node that tests are hard on.
func settings(port, controller int, log string) string {
	return fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[3]s
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=%[4]d
auto.create.topics.enable=false
`, port, controller, log, minSession.Milliseconds())
}

func (r *Real) java(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, r.installation.java, append([]string{
		"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(r.installation.libs, "*"),
	}, args...)...)
}

// startTimeout is how long a start may take on a busy machine.
const startTimeout = 2 * time.Minute

// Start starts it again, with what it had.
func (r *Real) Start(ctx context.Context) error {
	output := &lastBytes{}
	r.process = r.java(context.WithoutCancel(ctx), "kafka.Kafka", r.settings())
	r.process.Stdout, r.process.Stderr = output, output
	dieWithParent(r.process)
	if err := r.process.Start(); err != nil {
		return fmt.Errorf("start kafka: %w", err)
	}
	r.ended = make(chan struct{})
	go func() {
		_ = r.process.Wait() // it is told to end, by a signal
		close(r.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if answers(ctx, r.Addr()) {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.ended:
			return fmt.Errorf("kafka ended while it started:\n%s", output)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("kafka does not answer: %w\n%s", ctx.Err(), output), r.Stop())
		}
	}
}

// Stop kills it, as a crash would.
func (r *Real) Stop() error {
	if err := r.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop kafka: %w", err)
	}
	<-r.ended
	return nil
}

// Addr returns where it listens.
func (r *Real) Addr() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }

// answers reports whether a server at that address can be connected to. Kafka
// listens when it is ready to serve.
func answers(ctx context.Context, addr string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu   sync.Mutex
	kept []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	const most = 16 << 10
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, p...)
	l.kept = l.kept[max(0, len(l.kept)-most):]
	return len(p), nil
}

func (l *lastBytes) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.kept))
}
