package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/crypto/bcrypt"
)

// MaxPayload is the largest message, headers included, that a server of
// StartNATS takes: 1 MiB for the payload and 64 KiB for headers.
const MaxPayload = 1<<20 + 64<<10

const natsUser = "countermand"

// NATSConfig says where an in-process NATS server keeps its streams and who can
// reach it. Only StoreDir is required; the zero value of every other field gives
// a durable server that only this process can connect to.
type NATSConfig struct {
	// StoreDir is the folder of the streams. It is created when missing and
	// must not be shared with anything else.
	StoreDir string

	// NoSync lets JetStream acknowledge messages before they are synced to
	// disk. They may be lost when the machine stops unexpectedly: for tests
	// only.
	NoSync bool

	// Listen is the address of a TCP port for other processes, which log in with
	// the password in URL. It must be a loopback address; port 0 takes a free
	// one. Empty opens no port.
	Listen string

	// Password is what other processes log in with, for those that must find the
	// server again after it was restarted. Empty makes a new one at each start.
	Password string

	// Logger receives the server's warnings and errors; nil discards them.
	Logger *slog.Logger
}

// NATS is a running NATS server with JetStream inside this process. Its methods
// may be called concurrently.
type NATS struct {
	server   *server.Server
	lock     *folderLock
	password string
	listens  bool
	staging  *staging // nil where files cannot be kept in memory
	stop     sync.Once
}

// StartNATS starts a NATS server on cfg.StoreDir and returns when it accepts
// connections. Streams, consumers and messages of earlier starts are there
// again. It returns an error wrapping [ErrInUse] when a live process, or another
// server of this one, owns StoreDir. The server runs until Stop.
func StartNATS(cfg NATSConfig) (*NATS, error) {
	n, err := startNATS(cfg)
	if err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	return n, nil
}

func startNATS(cfg NATSConfig) (_ *NATS, err error) {
	if cfg.StoreDir == "" {
		return nil, errors.New("no store directory given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	password := cfg.Password
	if password == "" {
		password = rand.Text()
	}
	opts, err := natsOptions(cfg, password)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	lock, err := acquireLock(filepath.Join(cfg.StoreDir, "lock"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.release()
		}
	}()

	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	log := &natsLog{to: cfg.Logger}
	srv.SetLoggerV2(log, false, false, false)
	// Start returns when the server is up, or when it gave up and said why in
	// its log.
	srv.Start()
	if err := log.fatalError(); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	n := &NATS{server: srv, lock: lock, password: password, listens: !opts.DontListen}
	if n.staging, err = startStaging(n, cfg.StoreDir, cfg.Logger); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	return n, nil
}

func natsOptions(cfg NATSConfig, password string) (*server.Options, error) {
	opts := &server.Options{
		ServerName: "countermand",
		DontListen: cfg.Listen == "",
		NoSigs:     true,
		NoLog:      true,
		MaxPayload: MaxPayload,
		JetStream:  true,
		StoreDir:   cfg.StoreDir,
		SyncAlways: !cfg.NoSync,
		// The default is a share of the disk space that was free at the start,
		// which a long-lived server outgrows. The disk itself is the limit.
		JetStreamMaxStore: server.JetStreamMaxStoreDefault,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	addr, err := net.ResolveTCPAddr("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w", cfg.Listen, err)
	}
	if !addr.IP.IsLoopback() {
		return nil, fmt.Errorf("listen address %q: not a loopback address", cfg.Listen)
	}
	opts.Host, opts.Port = addr.IP.String(), addr.Port
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	// The cost is the lowest because the password is random, or its owner's choice
	// for a port that only this machine reaches.
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return nil, fmt.Errorf("hash password: %w", err)
	}
	opts.Username, opts.Password = natsUser, string(hash)
	return opts, nil
}

// URL returns the URL, with user and password, for other processes on this
// machine to connect with, and "" when the server does not listen. A new start
// has another password unless the config gives one.
func (n *NATS) URL() string {
	addr, ok := n.server.Addr().(*net.TCPAddr)
	if !n.listens || !ok {
		return ""
	}
	u := url.URL{
		Scheme: "nats",
		User:   url.UserPassword(natsUser, n.password),
		Host:   net.JoinHostPort(addr.IP.String(), strconv.Itoa(addr.Port)),
	}
	return u.String()
}

// Connect opens a connection to the server within this process, without a
// network. It reconnects without limit unless opts say otherwise. The caller
// closes it.
func (n *NATS) Connect(opts ...nats.Option) (*nats.Conn, error) {
	all := []nats.Option{nats.InProcessServer(n.server), nats.MaxReconnects(-1)}
	if n.listens {
		all = append(all, nats.UserInfo(natsUser, n.password))
	}
	nc, err := nats.Connect("", append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to in-process nats: %w", err)
	}
	return nc, nil
}

// Stop closes all connections, waits until the server has written everything
// and ended, and gives up the store directory. Further calls wait for the first
// one.
func (n *NATS) Stop() {
	n.stop.Do(func() {
		n.server.Shutdown()
		n.server.WaitForShutdown()
		n.staging.stop()
		n.lock.release()
	})
}
