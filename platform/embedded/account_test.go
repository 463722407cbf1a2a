//go:build unix

package embedded

import (
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestOrdinaryUser runs tests of this package as nobody when we are root. An
// ordinary user runs them all as itself anyway.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		if acct, err := serverAccount(filepath.Join(t.TempDir(), "none")); err != nil || acct.switchUser || int(acct.uid) != os.Geteuid() {
			t.Errorf("account of an ordinary user: %+v, %v", acct, err)
		}
		return
	}
	acct := nobody(t)
	// The folder of the test binary is closed to other users.
	dir := openTempDir(t)
	if err := acct.own(dir); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "embedded.test")
	copySelf(t, binary)

	cmd := exec.Command(binary, "-test.v", "-test.run", "^(TestKilledOwner|TestStalePIDFile|TestOrdinaryUser)$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir, binEnv+"="+installedBin(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: acct.uid, Gid: acct.gid}}
	output, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(output), "--- PASS") != 3 {
		t.Errorf("tests as nobody: %v\n%s", err, output)
	}
}

// openTempDir is a t.TempDir that other users can get to.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "countermand-open-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func nobody(t *testing.T) account {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, errUID := strconv.ParseInt(u.Uid, 10, 64)
	gid, errGID := strconv.ParseInt(u.Gid, 10, 64)
	if errUID != nil || errGID != nil {
		t.Fatal(errUID, errGID)
	}
	return account{name: "nobody", uid: uint32(uid), gid: uint32(gid), switchUser: true}
}

func copySelf(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func installedBin(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv(binEnv); bin != "" {
		return bin
	}
	bins := installedBins(os.Getenv("PATH"), "")
	if len(bins) == 0 {
		t.Fatal("no PostgreSQL is installed")
	}
	return bins[0]
}

func TestAccountPassesThroughFolders(t *testing.T) {
	dir := t.TempDir()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	for _, tc := range []struct {
		mode             os.FileMode
		uid, gid         uint32
		want             bool
		who, explanation string
	}{
		{0o700, owner.Uid, owner.Gid, true, "owner", "may"},
		{0o077, owner.Uid, owner.Gid, false, "owner", "has no more than the owner's bits"},
		{0o710, owner.Uid + 1, owner.Gid, true, "group", "may"},
		{0o701, owner.Uid + 1, owner.Gid, false, "group", "has no more than the group's bits"},
		{0o701, owner.Uid + 1, owner.Gid + 1, true, "other", "may"},
		{0o770, owner.Uid + 1, owner.Gid + 1, false, "other", "may not"},
	} {
		if err := os.Chmod(dir, tc.mode); err != nil {
			t.Fatal(err)
		}
		if info, err = os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		if got := (account{uid: tc.uid, gid: tc.gid}).maySearch(info); got != tc.want {
			t.Errorf("mode %o: %s %s, got %v", tc.mode, tc.who, tc.explanation, got)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
