package kafkatest

import (
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Fake is a server of this process. It keeps its state in a folder, so that it
// can be stopped and started again.
type Fake struct {
	dir     string
	ports   []int
	options []kfake.Opt
	cluster *kfake.Cluster
}

// StartFake starts a fake of so many nodes with its state in dir, on free ports of
// loopback.
func StartFake(dir string, nodes int, options ...kfake.Opt) (*Fake, error) {
	f := &Fake{dir: dir, options: options}
	for range nodes {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		f.ports = append(f.ports, port)
	}
	return f, f.Start()
}

// Start starts it again, with what it had.
func (f *Fake) Start() (err error) {
	f.cluster, err = kfake.NewCluster(append([]kfake.Opt{
		kfake.Ports(f.ports...), kfake.DataDir(f.dir), kfake.GroupMinSessionTimeout(minSession),
	}, f.options...)...)
	if err != nil {
		return fmt.Errorf("fake kafka: %w", err)
	}
	return nil
}

// Stop stops it. Clients see their connections close.
func (f *Fake) Stop() error {
	f.cluster.Close()
	return nil
}

// Addr returns where the first node listens; it tells clients of the others.
func (f *Fake) Addr() string { return fmt.Sprintf("127.0.0.1:%d", f.ports[0]) }

// Cluster returns what can be told to fail. Each start makes another one.
func (f *Fake) Cluster() *kfake.Cluster { return f.cluster }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it returns at once
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }() // nothing was sent
	return l.Addr().(*net.TCPAddr).Port, nil
}
