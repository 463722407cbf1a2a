//go:build unix

package embedded

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// socketName is what the server calls its socket for socketPort.
	socketName = ".s.PGSQL.5432"
	socketPort = 5432

	// maxSocketPath stays below sun_path, which takes 108 bytes on Linux, 104
	// on macOS and the BSDs, the closing zero included.
	maxSocketPath = 100

	tempSocketPrefix = "countermand-pg-"
)

// endpoint is where the server listens: a Unix socket in a folder of its own,
// or a loopback port when socketDir is empty.
type endpoint struct {
	socketDir string
	port      int
	record    string // names a socketDir outside the data folder, to be removed
}

// chooseEndpoint prepares a fresh socket folder in the data folder or, when its
// path does not fit, in a temporary one. No server of this folder may run.
func chooseEndpoint(dir dataDir, acct account, tcp bool) (endpoint, error) {
	if tcp {
		return endpoint{}, nil
	}
	if fitsSocket(dir.socketDir()) {
		// A server that was killed leaves its socket with a lock file, which names a
		// pid that may be somebody else's by now, or a dead one's nobody has waited
		// for; the next server would take it for a running one.
		if err := os.RemoveAll(dir.socketDir()); err != nil {
			return endpoint{}, fmt.Errorf("clear socket folder: %w", err)
		}
		if err := os.MkdirAll(dir.socketDir(), 0o700); err != nil {
			return endpoint{}, fmt.Errorf("make socket folder: %w", err)
		}
		if err := acct.own(dir.socketDir()); err != nil {
			return endpoint{}, fmt.Errorf("make socket folder: %w", err)
		}
		return endpoint{socketDir: dir.socketDir(), port: socketPort}, nil
	}
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if !fitsSocket(filepath.Join(base, tempSocketPrefix+"1234567890")) {
			continue
		}
		sock, err := os.MkdirTemp(base, tempSocketPrefix)
		if err != nil {
			continue
		}
		at := endpoint{socketDir: sock, port: socketPort, record: dir.socketRecord()}
		// The record comes first: a folder without one would be left for good.
		if err := os.WriteFile(at.record, []byte(sock), 0o600); err != nil {
			at.cleanUp()
			return endpoint{}, fmt.Errorf("remember socket folder: %w", err)
		}
		if err := acct.own(sock); err != nil {
			at.cleanUp()
			return endpoint{}, fmt.Errorf("make socket folder: %w", err)
		}
		return at, nil
	}
	return endpoint{}, nil
}

// fitsSocket says whether a socket in dir has a path that the operating system
// takes and that every reader of a connection URL or of the server's settings
// takes for one folder: commas separate several in both.
func fitsSocket(dir string) bool {
	if len(filepath.Join(dir, socketName)) > maxSocketPath {
		return false
	}
	return !strings.ContainsFunc(dir, func(r rune) bool {
		plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !plain && !strings.ContainsRune("/._-+=", r)
	})
}

// freePort returns a port of 127.0.0.1 that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") //nolint:noctx // binding to loopback does not wait
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (e endpoint) settings() [][2]string {
	if e.socketDir == "" {
		return [][2]string{
			{"listen_addresses", "127.0.0.1"},
			{"port", strconv.Itoa(e.port)},
			{"unix_socket_directories", ""},
		}
	}
	return [][2]string{
		{"listen_addresses", ""},
		{"port", strconv.Itoa(e.port)},
		{"unix_socket_directories", e.socketDir},
		{"unix_socket_permissions", "0700"},
	}
}

func (e endpoint) url(database, user, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Path: "/" + database}
	query := url.Values{"sslmode": {"disable"}}
	if e.socketDir == "" {
		u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(e.port))
	} else {
		query.Set("host", e.socketDir)
		query.Set("port", strconv.Itoa(e.port))
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// cleanUp removes a socket folder outside the data folder. What stays behind
// when that does not work is removed by the next start.
func (e endpoint) cleanUp() {
	if e.record == "" {
		return
	}
	if err := os.RemoveAll(e.socketDir); err == nil {
		_ = os.Remove(e.record)
	}
}

// removeStaleSocketDir removes the socket folder that an owner without the
// chance to clean up left in a temporary folder.
func (d dataDir) removeStaleSocketDir() {
	raw, err := os.ReadFile(d.socketRecord())
	if err != nil {
		return
	}
	// Only what can be a folder of ours: the record is a file like any other.
	if sock := string(raw); filepath.IsAbs(sock) && strings.HasPrefix(filepath.Base(sock), tempSocketPrefix) {
		endpoint{socketDir: sock, record: d.socketRecord()}.cleanUp()
	}
}
