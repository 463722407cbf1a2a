package embedded

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// folderLock is the claim of a live process on a data folder. The operating
// system drops it when the process ends, however it ends.
type folderLock struct {
	file *os.File
}

// acquireLock claims the folder of the given lock file without waiting.
func acquireLock(path string) (*folderLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock folder: %w", err)
		}
		held, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		if held {
			err := heldError(path, f)
			f.Close()
			return nil, err
		}
		if !names(path, f) {
			f.Close()
			continue
		}
		// The pid is for heldError only, so it does not matter when it cannot
		// be written.
		if f.Truncate(0) == nil {
			_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		return &folderLock{file: f}, nil
	}
}

// names says whether path still leads to the open file. The former owner may
// have deleted the folder between our opening the file and locking it.
func names(path string, f *os.File) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	ours, err := f.Stat()
	return err == nil && os.SameFile(there, ours)
}

func heldError(path string, f *os.File) error {
	raw := make([]byte, 32)
	n, _ := f.ReadAt(raw, 0)
	if pid := strings.TrimSpace(string(raw[:n])); pid != "" {
		return fmt.Errorf("lock %q: %w by process %s", path, ErrInUse, pid)
	}
	return fmt.Errorf("lock %q: %w by another process", path, ErrInUse)
}

func (l *folderLock) release() {
	// Closing the file drops the lock. The file stays: removing it would let
	// two processes lock two files of the same name.
	l.file.Close()
}
