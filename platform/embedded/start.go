//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"
)

func startPostgres(ctx context.Context, cfg PostgresConfig) (_ *Postgres, err error) {
	dir, err := openDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	lock, err := acquireLock(dir.lockFile())
	if err != nil {
		return nil, err
	}
	var at endpoint
	release := func() {
		at.cleanUp()
		lock.release()
	}
	defer func() {
		if err != nil {
			release()
		}
	}()

	acct, err := serverAccount(dir.cluster())
	if err != nil {
		return nil, err
	}
	if err := dir.admit(acct); err != nil {
		return nil, err
	}
	if err := dir.stopLeftovers(ctx, cfg.Logger); err != nil {
		return nil, err
	}
	dir.removeStaleSocketDir()

	major, err := dir.clusterMajor()
	if err != nil {
		return nil, err
	}
	programs, err := newFinder(dir, acct, cfg)
	if err != nil {
		return nil, err
	}
	inst, err := programs.find(ctx, major)
	if err != nil {
		return nil, err
	}
	cfg.Logger.InfoContext(ctx, "postgres binaries found",
		"bin_dir", inst.bin, "version", inst.version, "data_dir", dir.root)

	if at, err = chooseEndpoint(dir, acct, cfg.TCP); err != nil {
		return nil, err
	}
	if acct, err = acct.reaching(dir.root, at.socketDir); err != nil {
		return nil, err
	}
	password, err := dir.superuserPassword(major != 0)
	if err != nil {
		return nil, err
	}
	if major == 0 {
		cfg.Progress("Creating a PostgreSQL " + inst.version + " database in " + dir.root)
		if err := dir.initCluster(ctx, inst, acct, password, cfg.NoSync); err != nil {
			return nil, err
		}
	}

	server, err := startServer(ctx, dir, inst, acct, cfg, &at)
	if err != nil {
		return nil, err
	}
	return &Postgres{endpoint: at, password: password, server: server, release: release}, nil
}

// startServer starts the server and waits until it is ready, again when it
// ended for a reason that passes: a random port that somebody else took first,
// or backends of a dead server that have not noticed yet.
func startServer(ctx context.Context, dir dataDir, inst installation, acct account, cfg PostgresConfig, at *endpoint) (*serverProcess, error) {
	deadline := time.Now().Add(15 * time.Second)
	for {
		if at.socketDir == "" {
			port, err := freePort()
			if err != nil {
				return nil, err
			}
			at.port = port
		}
		log, err := openServerLog(dir.logFile())
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(inst.program("postgres"), append([]string{"-D", dir.cluster()}, serverArgs(cfg, dir, *at)...)...)
		acct.prepare(cmd, stopSignal(cfg.NoSync))
		server, err := launch(cmd, log, cfg.Logger)
		if err != nil {
			return nil, err
		}
		err = server.waitReady(ctx, dir, cfg.Progress)
		if err == nil {
			return server, nil
		}
		// The reason to give up is err; a server that cannot even be killed
		// adds its own.
		if stopErr := server.stop(ctx); stopErr != nil {
			return nil, errors.Join(err, stopErr)
		}
		passing := strings.Contains(err.Error(), "could not create any TCP/IP sockets") ||
			strings.Contains(err.Error(), "shared memory block") && strings.Contains(err.Error(), "still in use")
		if !passing || ctx.Err() != nil || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func removePostgres(ctx context.Context, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dir, err := openDataDir(path)
	if err != nil {
		return err
	}
	lock, err := acquireLock(dir.lockFile())
	if err != nil {
		return err
	}
	defer lock.release()
	if err := dir.stopLeftovers(ctx, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	dir.removeStaleSocketDir()
	if err := os.RemoveAll(dir.root); err != nil {
		return fmt.Errorf("delete %q: %w", dir.root, err)
	}
	return nil
}
