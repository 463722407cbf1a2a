// Package tempserver runs a throw-away PostgreSQL server for tests: without
// sync, in a temporary folder that goes when the server stops, in memory where
// there is room. What a process that was killed leaves behind is removed by a
// later start.
package tempserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/countermand/countermand/platform/embedded"
)

const prefix = "countermand-test-"

// abandonedAfter keeps sweep away from a folder whose owner has just made it
// and not locked it yet.
const abandonedAfter = 10 * time.Minute

// memoryFolder is where Linux keeps files in memory.
const memoryFolder = "/dev/shm"

// Server is a running throw-away server.
type Server struct {
	*embedded.Postgres
	dir string
}

// Start starts a server in a new folder: where TMPDIR says, else in memory, else
// where temporary files belong. ctx governs the start only. progress, which may be
// nil, is told about steps that take time.
func Start(ctx context.Context, progress func(string)) (*Server, error) {
	sweep(ctx)
	dir, err := makeFolder()
	if err != nil {
		return nil, fmt.Errorf("make folder for test server: %w", err)
	}
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		DataDir: dir,
		NoSync:  true,
		// Test packages run side by side, each with a pool of its own.
		MaxConnections: 400,
		// The log may lie in memory, and without sync a checkpoint costs little.
		Settings: map[string]string{"max_wal_size": "512MB"},
		Progress: progress,
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Server{Postgres: pg, dir: dir}, nil
}

// makeFolder prefers memory because tests make and drop databases all the time, and
// each is three hundred files: on ext4, finding inodes for them took a fifth of the
// time of all server processes.
func makeFolder() (string, error) {
	if os.Getenv("TMPDIR") == "" && roomInMemory() {
		if dir, err := os.MkdirTemp(memoryFolder, prefix); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", prefix)
}

// Stop stops the server and deletes its folder.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.Postgres.Stop(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("delete folder of test server: %w", err)
	}
	return nil
}

// sweep removes the servers of processes that were killed. One that cannot be
// removed, because it is in use or for another reason, is no concern of a test.
func sweep(ctx context.Context) {
	// The only error is that of a malformed pattern.
	onDisk, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	inMemory, _ := filepath.Glob(filepath.Join(memoryFolder, prefix+"*"))
	for _, dir := range slices.Concat(onDisk, inMemory) {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !isOurs(info) || time.Since(info.ModTime()) < abandonedAfter {
			continue
		}
		_ = embedded.RemovePostgres(ctx, dir)
	}
}
