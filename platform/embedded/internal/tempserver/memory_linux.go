package tempserver

import "golang.org/x/sys/unix"

// memoryMin is what the databases of all packages that are tested at once, and their
// log, may take.
const memoryMin = 4 << 30

// roomInMemory says whether the memory folder is in memory and has room. Containers
// often give it 64 MB.
func roomInMemory() bool {
	var folder unix.Statfs_t
	if err := unix.Statfs(memoryFolder, &folder); err != nil || folder.Type != unix.TMPFS_MAGIC {
		return false
	}
	return folder.Bavail*uint64(folder.Bsize) >= memoryMin
}
