//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the operating system user that the server runs as.
type account struct {
	name     string
	uid, gid uint32

	// switchUser says that children must be started as another user than ours.
	switchUser bool
	// searchAny gives children the right to pass through any folder.
	searchAny bool
}

// serverAccount returns our own user, or for root an unprivileged one, because
// PostgreSQL refuses to run as root: the owner of an existing cluster, else the
// user postgres, else nobody.
func serverAccount(cluster string) (account, error) {
	info, err := os.Stat(cluster)
	owned := err == nil
	var owner *syscall.Stat_t
	if owned {
		owner, owned = info.Sys().(*syscall.Stat_t)
	}
	if uid := os.Geteuid(); uid != 0 {
		if owned && int64(owner.Uid) != int64(uid) {
			return account{}, fmt.Errorf("database %q belongs to user %d: start as that user or as root, or choose another data directory", cluster, owner.Uid)
		}
		return account{name: "uid " + strconv.Itoa(uid), uid: uint32(uid), gid: uint32(os.Getegid())}, nil
	}
	if owned && owner.Uid != 0 {
		return account{name: "uid " + strconv.FormatUint(uint64(owner.Uid), 10), uid: owner.Uid, gid: owner.Gid, switchUser: true}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		// Some systems write the ids of nobody as negative numbers.
		uid, errUID := strconv.ParseInt(u.Uid, 10, 64)
		gid, errGID := strconv.ParseInt(u.Gid, 10, 64)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return account{name: name, uid: uint32(uid), gid: uint32(gid), switchUser: true}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root and there is no user postgres or nobody to run it as: start as an ordinary user")
}

// own gives a file of ours to the account.
func (a account) own(path string) error {
	if !a.switchUser {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// prepare makes cmd run as the account, out of the reach of our terminal's
// signals, and with nothing of our environment that is not meant for it. It
// gets death when the thread that starts it ends, where the system can do that.
func (a account) prepare(cmd *exec.Cmd, death syscall.Signal) {
	// Our working folder may be closed to the account.
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "TMPDIR", "TZDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LOCPATH", "LOCALE_ARCHIVE"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.switchUser {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	a.prepareSystem(cmd.SysProcAttr, death)
}

// reaching returns the account with what it takes to get to data folders, or an
// error that names the one it cannot get to. Empty paths are ignored.
func (a account) reaching(dirs ...string) (account, error) {
	for _, dir := range dirs {
		err := a.reaches(dir)
		switch {
		case err == nil:
		case !maySearchAny():
			return a, fmt.Errorf("%w: choose another data directory", err)
		default:
			a.searchAny = true
		}
	}
	return a, nil
}

// reaches returns an error when a folder on the way to dir, dir included, is
// closed to the account.
func (a account) reaches(dir string) error {
	if !a.switchUser || dir == "" {
		return nil
	}
	closed, err := a.firstClosed(dir)
	if err != nil {
		return fmt.Errorf("check access to %q: %w", dir, err)
	}
	if closed != "" {
		return fmt.Errorf("user %s, which PostgreSQL runs as instead of root, cannot get to %q because %q is closed to it", a.name, dir, closed)
	}
	return nil
}

// firstClosed returns the folder on the way to dir, dir included, that the
// account may not pass through.
func (a account) firstClosed(dir string) (string, error) {
	at, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(at)
		if err != nil {
			return "", err
		}
		if !a.maySearch(info) {
			return at, nil
		}
		parent := filepath.Dir(at)
		if parent == at {
			return "", nil
		}
		at = parent
	}
}

func (a account) maySearch(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch {
	case owner.Uid == a.uid:
		return info.Mode()&0o100 != 0
	case owner.Gid == a.gid:
		return info.Mode()&0o010 != 0
	}
	return info.Mode()&0o001 != 0
}
