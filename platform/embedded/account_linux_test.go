package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRootBehindClosedFolder needs root, because only root has another user's
// folders in its way.
func TestRootBehindClosedFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as somebody else")
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "data")

	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Capabilities are a thread's own. The thread ends with the goroutine, which
	// does not unlock it, and takes the change along.
	refused := make(chan error)
	acct := nobody(t)
	go func() {
		runtime.LockOSThread()
		refused <- reachWithoutCapability(acct, dir)
	}()
	if err := <-refused; err == nil || !strings.Contains(err.Error(), closed) || !strings.Contains(err.Error(), "choose another data directory") {
		t.Errorf("without the capability: %v", err)
	}

	if !maySearchAny() {
		// As in a container with the usual rights.
		if _, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir, NoSync: true}); err == nil || !strings.Contains(err.Error(), "choose another data directory") {
			t.Errorf("start without the capability: %v", err)
		}
		return
	}
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	if got := queryText(t, p.AdminURL(), "SELECT pg_reload_conf()::text"); got != "true" {
		t.Errorf("reload: %s", got)
	}
	stopTest(t, p)
	info, err := os.Stat(closed)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the parent's mode is %o now", info.Mode().Perm())
	}
}

func reachWithoutCapability(acct account, dir string) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	// Looking at the folder is root's right by another capability.
	data[0].Effective &^= 1 << unix.CAP_DAC_READ_SEARCH
	data[0].Permitted &^= 1 << unix.CAP_DAC_READ_SEARCH
	data[0].Inheritable &^= 1 << unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	_, err := acct.reaching(dir)
	return err
}

// The server that root runs must not be able to do what root can, apart from
// passing through folders when there is no other way.
func TestServerOfRootHasNoRights(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as somebody else")
	}
	p := startTest(t, PostgresConfig{DataDir: filepath.Join(openTempDir(t), "data"), NoSync: true})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.server.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(status), "Uid:\t0\t") {
		t.Error("the server runs as root")
	}
	if !strings.Contains(string(status), "CapEff:\t0000000000000000\n") {
		t.Errorf("the server has capabilities:\n%s", status)
	}
}
