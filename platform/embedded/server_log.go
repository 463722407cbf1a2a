//go:build unix

package embedded

import (
	"fmt"
	"os"
	"sync"
)

const (
	maxLogSize  = 8 << 20
	maxTailSize = 4 << 10
)

// serverLog writes what the server prints to a file, keeps that file and one
// predecessor below maxLogSize each, and remembers the end of what this server
// printed for error messages. A write never fails: a full disk must not stop
// the pipe that the server logs to.
type serverLog struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	last []byte
}

func openServerLog(path string) (*serverLog, error) {
	l := &serverLog{path: path}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open server log: %w", err)
	}
	return l, nil
}

func (l *serverLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write implements io.Writer.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last, p...)
	if over := len(l.last) - maxTailSize; over > 0 {
		l.last = append(l.last[:0], l.last[over:]...)
	}
	if l.file == nil {
		return len(p), nil
	}
	if l.size+int64(len(p)) > maxLogSize {
		l.rotate()
	}
	if l.file != nil {
		n, _ := l.file.Write(p)
		l.size += int64(n)
	}
	return len(p), nil
}

// rotate starts a new file; without one the rest of the log is dropped.
func (l *serverLog) rotate() {
	l.file.Close()
	l.file = nil
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return
	}
	if err := l.open(); err != nil {
		l.file = nil
	}
}

func (l *serverLog) tail() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]byte(nil), l.last...)
}

func (l *serverLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
