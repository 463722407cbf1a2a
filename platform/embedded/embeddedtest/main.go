package embeddedtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/embedded/internal/tempserver"
)

// DatabaseURLEnv is the environment variable with the URL of a superuser's
// connection to the server that tests are to use.
const DatabaseURLEnv = "COUNTERMAND_TEST_DATABASE_URL"

// DatabaseServerEnv is the environment variable with the version of that server, as it
// tells it itself. Whoever sets it says that a test depends on the version and not on
// the address, so that go test may take a result from its cache when only the address
// is another one.
const DatabaseServerEnv = "COUNTERMAND_TEST_DATABASE_SERVER"

// Main runs the tests of a package, stops the server they used if this process
// started it, and exits with their code, or with 1 when the server could not be
// stopped. It does not return.
func Main(m *testing.M) {
	shared.allow()
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "embeddedtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// sharedServer is the server of this test process, started on first use.
type sharedServer struct {
	mu      sync.Mutex
	allowed bool // Main is there to stop what we start
	started bool
	server  *tempserver.Server
	url     string
	err     error

	databases databases
}

// shared is global because a test has nothing but its testing.TB to bring it
// together with TestMain.
var shared sharedServer

func (s *sharedServer) allow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = true
}

// adminURL returns the URL of the server. A start that did not work is not
// repeated for every test.
func (s *sharedServer) adminURL() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.allowed {
		return "", errors.New("the package needs a TestMain that calls embeddedtest.Main(m)")
	}
	if s.started {
		return s.url, s.err
	}
	s.started = true
	if s.url = givenURL(); s.url != "" {
		return s.url, nil
	}
	// The server outlives the test that happens to need it first, and a
	// download takes its time.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	s.server, s.err = tempserver.Start(ctx, func(step string) { fmt.Fprintln(os.Stderr, "embeddedtest:", step) })
	if s.err == nil {
		s.url = s.server.AdminURL()
	}
	return s.url, s.err
}

// givenURL returns the URL of a server that somebody else has started; "" when there is
// none.
func givenURL() string {
	if os.Getenv(DatabaseServerEnv) == "" {
		return os.Getenv(DatabaseURLEnv)
	}
	// What os.Getenv has read must be the same again for a cached result to count.
	url, _ := syscall.Getenv(DatabaseURLEnv)
	return url
}

func (s *sharedServer) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.server == nil {
		return s.databases.dropAll(ctx, s.url) // the server goes on
	}
	return s.server.Stop(ctx)
}
