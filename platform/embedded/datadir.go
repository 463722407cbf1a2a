//go:build unix

package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const superuser = "postgres"

// dataDir names what lies in a data folder. Only the cluster belongs to the
// account the server runs as, everything else to us.
type dataDir struct {
	root string // absolute and free of symlinks
}

func openDataDir(path string) (dataDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return dataDir{}, fmt.Errorf("open data directory %q: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
		return dataDir{}, fmt.Errorf("open data directory %q: %w", path, err)
	}
	if err := os.Mkdir(abs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return dataDir{}, fmt.Errorf("open data directory %q: %w", path, err)
	}
	root, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return dataDir{}, fmt.Errorf("open data directory %q: %w", path, err)
	}
	return dataDir{root: root}, nil
}

func (d dataDir) cluster() string      { return filepath.Join(d.root, "pgdata") }
func (d dataDir) lockFile() string     { return filepath.Join(d.root, "lock") }
func (d dataDir) logFile() string      { return filepath.Join(d.root, "postgres.log") }
func (d dataDir) passwordFile() string { return filepath.Join(d.root, "superuser.password") }
func (d dataDir) socketDir() string    { return filepath.Join(d.root, "run") }

// socketRecord remembers a socket folder outside the data folder, so that the
// next start can remove it when this process gets no chance to.
func (d dataDir) socketRecord() string { return filepath.Join(d.root, "socket_dir") }

// admit lets the account pass through the data folder, which is ours to open;
// its parents are not, see account.reaching.
func (d dataDir) admit(acct account) error {
	info, err := os.Stat(d.root)
	if err != nil {
		return fmt.Errorf("open data directory %q: %w", d.root, err)
	}
	if !acct.switchUser || acct.maySearch(info) {
		return nil
	}
	if err := os.Chmod(d.root, info.Mode().Perm()|0o011); err != nil {
		return fmt.Errorf("open data directory %q for user %s: %w", d.root, acct.name, err)
	}
	return nil
}

// clusterMajor returns the PostgreSQL major version that made the cluster, 0
// when there is none yet.
func (d dataDir) clusterMajor() (int, error) {
	if _, err := os.Lstat(d.cluster()); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	// initCluster moves a finished cluster into place, so a folder without a
	// version is not one of ours and must not be overwritten.
	raw, err := os.ReadFile(filepath.Join(d.cluster(), "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("%q holds no PostgreSQL cluster: %w", d.cluster(), err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, fmt.Errorf("read version of cluster %q: %w", d.cluster(), err)
	}
	return major, nil
}

// superuserPassword reads the password kept beside the cluster. It makes one
// only as long as no cluster exists that would not know it.
func (d dataDir) superuserPassword(clusterExists bool) (string, error) {
	raw, err := os.ReadFile(d.passwordFile())
	switch {
	case err == nil && len(strings.TrimSpace(string(raw))) > 0:
		return strings.TrimSpace(string(raw)), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist), clusterExists && err != nil:
		return "", fmt.Errorf("read superuser password: %w", err)
	case clusterExists:
		return "", fmt.Errorf("read superuser password: %q is empty", d.passwordFile())
	}
	password := rand.Text()
	if err := writeFileSync(d.passwordFile(), []byte(password+"\n")); err != nil {
		return "", fmt.Errorf("keep superuser password: %w", err)
	}
	return password, nil
}

// writeFileSync writes a private file that survives a crash of the machine once
// its folder has been synced, which initCluster does last.
func writeFileSync(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
