//go:build unix

package embedded

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
)

// installedBins returns the folders that hold the server programs: those on the
// search path first, then where the packages of Linux distributions and of
// Homebrew put them, newest version first. root is put before the latter.
func installedBins(searchPath, root string) []string {
	var bins []string
	add := func(dir string) {
		if !slices.Contains(bins, dir) && isFile(filepath.Join(dir, "initdb")) && isFile(filepath.Join(dir, "postgres")) {
			bins = append(bins, dir)
		}
	}
	for _, dir := range filepath.SplitList(searchPath) {
		if !filepath.IsAbs(dir) {
			continue
		}
		// A distribution may link single programs from its own folder.
		for _, name := range []string{"pg_ctl", "initdb", "postgres"} {
			if path, err := filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil {
				add(filepath.Dir(path))
			}
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	} {
		// The only error is that of a malformed pattern.
		dirs, _ := filepath.Glob(root + pattern)
		slices.SortStableFunc(dirs, func(a, b string) int { return versionIn(b) - versionIn(a) })
		for _, dir := range dirs {
			if resolved, err := filepath.EvalSymlinks(dir); err == nil {
				add(resolved)
			}
		}
	}
	return bins
}

var numberAtEnd = regexp.MustCompile(`(\d+)[^/]*/bin$`)

// versionIn returns the major version that a folder such as
// /usr/pgsql-16/bin has in its name.
func versionIn(bin string) int {
	m := numberAtEnd.FindStringSubmatch(bin)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return n
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// installCommand returns the command that installs PostgreSQL on this system.
func installCommand() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	for _, c := range [][2]string{
		{"apt-get", "apt-get install postgresql"},
		{"dnf", "dnf install postgresql-server"},
		{"yum", "yum install postgresql-server"},
		{"zypper", "zypper install postgresql-server"},
		{"pacman", "pacman -S postgresql"},
		{"apk", "apk add postgresql"},
		{"pkg", "pkg install postgresql17-server"},
	} {
		if _, err := exec.LookPath(c[0]); err == nil {
			return "sudo " + c[1]
		}
	}
	return "the package manager of this system (the package is usually called postgresql or postgresql-server)"
}
