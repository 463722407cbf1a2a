//go:build !unix

package tempserver

import "io/fs"

// isOurs is false where no server runs that could leave anything behind.
func isOurs(fs.FileInfo) bool { return false }
