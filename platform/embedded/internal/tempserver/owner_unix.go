//go:build unix

package tempserver

import (
	"io/fs"
	"os"
	"syscall"
)

// isOurs tells our folders from what other users put into a temporary folder
// that everybody can write to.
func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Uid) == int64(os.Geteuid())
}
