//go:build unix

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// noCluster keeps Debian's packages from making and starting a database cluster
// of their own.
const noCluster = "/etc/postgresql-common/createcluster.d/countermand-no-main-cluster.conf"

// fetchApt installs the distribution's server package, which only root on a
// Debian system can.
func (c binariesCache) fetchApt(ctx context.Context, major int) (string, error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "", absentError("only root can install packages, on Debian and Ubuntu")
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return "", absentError("apt-get is not on PATH")
	}
	pkg := "postgresql"
	if major != 0 {
		pkg = fmt.Sprintf("postgresql-%d", major)
	}
	c.progress("Installing the package " + pkg + " with apt-get")
	ctx, cancel := limited(ctx)
	defer cancel()
	restore, err := forbidMainCluster()
	if err != nil {
		return "", err
	}
	defer restore()

	install := []string{"install", "-y", "--no-install-recommends", pkg}
	if err := runApt(ctx, apt, install...); err != nil {
		// A fresh container has no package lists yet, an old machine outdated ones.
		c.progress("Updating the package lists with apt-get")
		if updateErr := runApt(ctx, apt, "update"); updateErr != nil {
			return "", errors.Join(err, updateErr)
		}
		if err := runApt(ctx, apt, install...); err != nil {
			return "", err
		}
	}
	for _, bin := range installedBins("", "") {
		if major == 0 || versionIn(bin) == major {
			return bin, nil
		}
	}
	return "", fmt.Errorf("package %s brought no server programs", pkg)
}

func runApt(ctx context.Context, apt string, args ...string) error {
	cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-o", "DPkg::Lock::Timeout=60"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	// A package manager that is killed leaves packages half installed.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	output, err := cmd.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("apt-get %s: %w%s", args[0], err, quoteOutput(aptErrors(output)))
	}
	return nil
}

// aptErrors returns the last of the lines in which apt-get says what is wrong,
// or all it printed when there are none.
func aptErrors(output []byte) []byte {
	var lines [][]byte
	for line := range bytes.Lines(output) {
		if bytes.HasPrefix(line, []byte("E: ")) {
			lines = append(lines, bytes.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		return output
	}
	return bytes.Join(lines[max(0, len(lines)-2):], []byte("; "))
}

// forbidMainCluster is undone after the installation: later ones are the
// administrator's own and follow the administrator's configuration.
func forbidMainCluster() (restore func(), err error) {
	if err := os.MkdirAll(filepath.Dir(noCluster), 0o755); err != nil {
		return nil, fmt.Errorf("keep apt-get from making a cluster: %w", err)
	}
	if err := os.WriteFile(noCluster, []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return nil, fmt.Errorf("keep apt-get from making a cluster: %w", err)
	}
	return func() { _ = os.Remove(noCluster) }, nil
}
