//go:build !linux

package tempserver

// roomInMemory is false where no folder is known to be in memory.
func roomInMemory() bool { return false }
