package reload

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a file must be left alone before it is read: an editor
	// writes it in parts.
	settle = 100 * time.Millisecond
	// lookEvery is how often the file is read although nobody told of a change:
	// not every file system tells.
	lookEvery = 10 * time.Second
)

// Watch calls look when the file may have changed and hangup on SIGHUP, never both at
// once, until ctx ends; then it returns nil. Without a file it only waits for that.
func Watch(ctx context.Context, file string, logger *slog.Logger, look, hangup func(context.Context)) error {
	if file == "" {
		<-ctx.Done()
		return nil
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	var (
		changes <-chan fsnotify.Event
		lost    <-chan error
	)
	// The folder is watched and not the file, which editors and Kubernetes replace.
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { _ = watcher.Close() }()
		err = watcher.Add(filepath.Dir(file))
		changes, lost = watcher.Events, watcher.Errors
	}
	if err != nil {
		logger.WarnContext(ctx, "changes of a file are found late", "file", file, "look_every", lookEvery, "error", err)
		changes, lost = nil, nil
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	settled := time.NewTimer(0)
	defer settled.Stop()
	for {
		select {
		case <-changes:
			settled.Reset(settle)
		case err := <-lost: // such as too many changes at once
			logger.DebugContext(ctx, "changes of a file may be missed, so it is read", "file", file, "error", err)
			settled.Reset(settle)
		case <-settled.C:
			look(ctx)
		case <-ticker.C:
			look(ctx)
		case <-hangups:
			hangup(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}
