package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// findLeftovers returns the live server processes of the cluster, the
// postmaster first. Every one of them works in the cluster's folder, so none is
// missed and a process that got a dead server's pid is never taken for one.
func (d dataDir) findLeftovers(pid int) []leftover {
	want, err := os.Stat(d.cluster())
	if err != nil {
		return nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []leftover
	for _, proc := range procs {
		id, err := strconv.Atoi(proc.Name())
		if err != nil {
			continue
		}
		entry := filepath.Join("/proc", proc.Name())
		cwd, err := os.Stat(filepath.Join(entry, "cwd"))
		switch {
		case err == nil && os.SameFile(cwd, want) && runsPostgres(entry):
			found = append(found, leftover{pid: id, postmaster: id == pid})
		case errors.Is(err, fs.ErrPermission) && sameOwner(entry, want) && d.readsLike(entry, id == pid):
			// A container's root may not look into processes of other users,
			// but everybody may read their command lines.
			found = append(found, leftover{pid: id, postmaster: id == pid})
		}
	}
	slices.SortFunc(found, func(a, b leftover) int {
		if a.postmaster == b.postmaster {
			return a.pid - b.pid
		}
		if a.postmaster {
			return -1
		}
		return 1
	})
	return found
}

// runsPostgres tells a server process from, say, a shell that stands in the
// cluster's folder.
func runsPostgres(entry string) bool {
	exe, err := os.Readlink(filepath.Join(entry, "exe"))
	// The program of a running server may have been upgraded in the meantime.
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres"
}

// readsLike says whether the command line of a process is that of the cluster's
// postmaster, or of one of its children.
func (d dataDir) readsLike(entry string, postmaster bool) bool {
	raw, err := os.ReadFile(filepath.Join(entry, "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(string(raw), "\x00")
	if !postmaster {
		return d.titled(args[0])
	}
	i := slices.Index(args, "-D")
	return filepath.Base(args[0]) == "postgres" && i >= 0 && i+1 < len(args) && args[i+1] == d.cluster()
}

// sameOwner keeps us from a process of another user that looks like a server.
func sameOwner(entry string, cluster fs.FileInfo) bool {
	info, err := os.Stat(entry)
	if err != nil {
		return false
	}
	process, ok := info.Sys().(*syscall.Stat_t)
	owner, okay := cluster.Sys().(*syscall.Stat_t)
	return ok && okay && process.Uid == owner.Uid
}
