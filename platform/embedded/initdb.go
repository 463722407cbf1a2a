//go:build unix

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// initCluster creates the database cluster beside its final place and moves it
// there when it is complete, so that an interrupted start leaves nothing that a
// later one could take for a database.
func (d dataDir) initCluster(ctx context.Context, inst installation, acct account, password string, noSync bool) error {
	unfinished := d.cluster() + ".new"
	pwfile := filepath.Join(d.root, "initdb.password")
	defer func() { _ = os.Remove(pwfile) }()
	// The superuser password file is ours alone, so initdb gets a copy.
	if err := writeFileSync(pwfile, []byte(password+"\n")); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	if err := acct.own(pwfile); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}

	var output []byte
	var err error
	// C.UTF-8 classifies letters beyond ASCII but not every system has it.
	for _, locale := range []string{"C.UTF-8", "C"} {
		if err := os.RemoveAll(unfinished); err != nil {
			return fmt.Errorf("initialise database: remove remains of an earlier start: %w", err)
		}
		if err := os.Mkdir(unfinished, 0o700); err != nil {
			return fmt.Errorf("initialise database: %w", err)
		}
		if err := acct.own(unfinished); err != nil {
			return fmt.Errorf("initialise database: %w", err)
		}
		args := []string{
			"-D", unfinished, "--username=" + superuser, "--pwfile=" + pwfile,
			"--auth=scram-sha-256", "--encoding=UTF8", "--locale=" + locale, "--lc-messages=C",
			"--data-checksums", "--no-instructions",
		}
		if noSync {
			args = append(args, "--no-sync")
		}
		cmd := exec.CommandContext(ctx, inst.program("initdb"), args...)
		acct.prepare(cmd, syscall.SIGKILL)
		output, err = runTied(cmd)
		if err == nil || !strings.Contains(string(output), "invalid locale") {
			break
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("initialise database in %q: %w%s", d.root, err, quoteOutput(output))
	}
	if err := os.Rename(unfinished, d.cluster()); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	if noSync {
		return nil
	}
	if err := syncDir(d.root); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	return nil
}

// runTied runs cmd to its end and returns what it printed. A parent death
// signal is tied to the thread that started the child, so the thread is kept
// until the child is gone.
func runTied(cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.CombinedOutput()
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// quoteOutput formats the end of a command's output to follow an error.
func quoteOutput(output []byte) string {
	output = bytes.TrimSpace(output)
	if len(output) == 0 {
		return ""
	}
	const most = 2000
	if len(output) > most {
		output = append([]byte("... "), output[len(output)-most:]...)
	}
	return ": " + string(output)
}
