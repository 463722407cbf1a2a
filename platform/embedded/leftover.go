//go:build unix

package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postmaster is what a server wrote into its pid file.
type postmaster struct {
	pid    int
	status string
}

func (d dataDir) pidFile() string { return filepath.Join(d.cluster(), "postmaster.pid") }

// postmaster reads the pid file; false when there is none or it is not
// complete.
func (d dataDir) postmaster() (postmaster, bool) {
	raw, err := os.ReadFile(d.pidFile())
	if err != nil {
		return postmaster{}, false
	}
	lines := strings.Split(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return postmaster{}, false
	}
	pm := postmaster{pid: pid}
	if len(lines) >= 8 {
		pm.status = strings.TrimSpace(lines[7])
	}
	return pm, true
}

// mark names the data folder in the titles of its server's processes.
func (d dataDir) mark() string {
	sum := sha256.Sum256([]byte(d.root))
	return "countermand-" + hex.EncodeToString(sum[:8])
}

// titled says whether a process title is that of a child of the data folder's
// postmaster.
func (d dataDir) titled(title string) bool {
	return strings.HasPrefix(title, "postgres: "+d.mark()+": ")
}

// leftover is a server process of the cluster that an earlier owner started.
type leftover struct {
	pid        int
	postmaster bool
}

// stopLeftovers ends the server that an owner which is no longer alive left
// running on the cluster, and removes its pid file. The caller holds the lock
// of the data folder: no live owner of this cluster exists.
func (d dataDir) stopLeftovers(ctx context.Context, logger *slog.Logger) error {
	pm, hasPID := d.postmaster()
	for _, step := range []struct {
		postmaster, backend syscall.Signal
		wait                time.Duration
	}{
		{syscall.SIGINT, syscall.SIGTERM, 20 * time.Second},
		{syscall.SIGQUIT, syscall.SIGQUIT, immediateGrace},
		{syscall.SIGKILL, syscall.SIGKILL, immediateGrace},
	} {
		found := d.findLeftovers(pm.pid)
		if len(found) == 0 {
			break
		}
		for _, p := range found {
			sig := step.backend
			if p.postmaster {
				sig = step.postmaster
			} else if found[0].postmaster && step.backend == syscall.SIGTERM {
				continue // its postmaster stops it in order
			}
			logger.WarnContext(ctx, "stopping a postgres process left behind", "pid", p.pid, "signal", sig.String(), "data_dir", d.root)
			if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop postgres process %d left on %q: %w", p.pid, d.root, err)
			}
		}
		if err := d.awaitLeftovers(ctx, pm.pid, step.wait); err != nil {
			return fmt.Errorf("stop postgres left on %q: %w", d.root, err)
		}
	}
	if found := d.findLeftovers(pm.pid); len(found) > 0 {
		return fmt.Errorf("postgres process %d left on %q does not end", found[0].pid, d.root)
	}
	if !hasPID {
		return nil
	}
	// The pid may have gone to another process since, which the server would
	// take for a running one. What the file protects against, a second server
	// on live shared memory, the server also recognises by the memory itself.
	if err := os.Remove(d.pidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale pid file: %w", err)
	}
	return nil
}

// awaitLeftovers waits until none is left or the time is over. The processes
// are not children of ours, so there is nothing to wait on.
func (d dataDir) awaitLeftovers(ctx context.Context, pid int, most time.Duration) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	over := time.NewTimer(most)
	defer over.Stop()
	for len(d.findLeftovers(pid)) > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over.C:
			return nil
		case <-tick.C:
		}
	}
	return nil
}
