//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ownPostgres is the part of a process that crashes while it owns a server.
func ownPostgres(args []string) error {
	ctx := context.Background()
	p, err := StartPostgres(ctx, PostgresConfig{DataDir: args[0]})
	if err != nil {
		return err
	}
	if err := exec1(ctx, p.AdminURL(), "CREATE TABLE orders (id int)", "INSERT INTO orders SELECT generate_series(1, 1000)"); err != nil {
		return err
	}
	open, err := pgx.Connect(ctx, p.AdminURL())
	if err != nil {
		return err
	}
	if _, err := open.Exec(ctx, "BEGIN; INSERT INTO orders VALUES (1001)"); err != nil {
		return err
	}
	fmt.Println(p.server.cmd.Process.Pid)
	fmt.Println(p.endpoint.socketDir)
	holdUntilKilled()
	return nil
}

// tryPostgres is the part of a second process that wants the same folder.
func tryPostgres(args []string) error {
	_, err := StartPostgres(context.Background(), PostgresConfig{DataDir: args[0]})
	if !errors.Is(err, ErrInUse) {
		return fmt.Errorf("start beside a live owner: %w", err)
	}
	_, reason, _ := strings.Cut(err.Error(), "lock\": ")
	fmt.Println("refused:", reason)
	return nil
}

func TestKilledOwner(t *testing.T) {
	t.Parallel()
	// Too long for a socket, so that there also is a folder to clean up.
	dir := filepath.Join(openTempDir(t), strings.Repeat("long", 40))
	owner := startHelper(t, "own-postgres", dir)
	pid, err := strconv.Atoi(owner.line(t))
	if err != nil {
		t.Fatal(err)
	}
	socketDir := owner.line(t)
	owner.kill9(t)

	if runtime.GOOS == "linux" {
		// The kernel tells the server; nobody else does.
		waitGone(t, pid)
	}
	p := startTest(t, PostgresConfig{DataDir: dir})
	if got := queryText(t, p.AdminURL(), "SELECT count(*)::text FROM orders"); got != "1000" {
		t.Errorf("%s rows after the crash, want the 1000 committed ones", got)
	}
	if _, err := os.Stat(socketDir); err == nil {
		t.Errorf("socket folder %q of the killed owner is left", socketDir)
	}
}

// waitGone waits for the end of a process that is not ours to wait for.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A server that runs without its owner is what a crash leaves where the kernel
// does not tell the server. This one listens on a port.
func TestServerLeftRunningIsStopped(t *testing.T) {
	t.Parallel()
	dir := openTempDir(t)
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true, TCP: true, MaxConnections: 20})
	if !strings.Contains(p.AdminURL(), "@127.0.0.1:") {
		t.Errorf("URL %q is not one of a loopback port", p.AdminURL())
	}
	if got := queryText(t, p.AdminURL(), "SHOW max_connections"); got != "20" {
		t.Errorf("max_connections is %s, want 20", got)
	}
	if err := exec1(t.Context(), p.URL("postgres", "postgres", "")); err == nil {
		t.Error("connected without a password")
	}
	mustExec(t, p.AdminURL(), "CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1)")
	stopTest(t, p)

	left := exec.Command(p.server.cmd.Path, p.server.cmd.Args[1:]...)
	left.Dir, left.Env, left.SysProcAttr = p.server.cmd.Dir, p.server.cmd.Env, p.server.cmd.SysProcAttr
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runTied(left)
	}()
	data, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if pm, ok := data.postmaster(); ok && pm.status == "ready" {
			break
		}
		select {
		case <-ended:
			t.Fatalf("the server to leave behind ended: %s", left.ProcessState)
		case <-time.After(5 * time.Millisecond):
		}
	}

	again := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	select {
	case <-ended:
	case <-t.Context().Done():
		t.Fatal("the server left behind still runs")
	}
	if got := queryText(t, again.AdminURL(), "SELECT count(*)::text FROM orders"); got != "1" {
		t.Errorf("%s rows, want 1", got)
	}
}

func TestServerDeathIsTold(t *testing.T) {
	t.Parallel()
	dir := openTempDir(t)
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	mustExec(t, p.AdminURL(), "CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1)", "CHECKPOINT")
	if err := p.Err(); err != nil {
		t.Fatalf("Err of a running server: %v", err)
	}

	// This backend never looks whether its postmaster is alive.
	busy, err := pgx.Connect(t.Context(), p.AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close(context.WithoutCancel(t.Context()))
	busyPID := int(busy.PgConn().PID())
	go busy.Exec(t.Context(), "DO $$ BEGIN LOOP END LOOP; END $$")
	waitBusy(t, p.AdminURL(), busyPID)

	if err := p.server.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("Done does not tell of the death")
	}
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "ended by itself (signal: killed)") {
		t.Errorf("Err of a killed server: %v", err)
	}
	stopTest(t, p)

	again := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	if runtime.GOOS == "linux" {
		waitGone(t, busyPID)
	}
	if got := queryText(t, again.AdminURL(), "SELECT count(*)::text FROM orders"); got != "1" {
		t.Errorf("%s rows, want 1", got)
	}
}

func waitBusy(t *testing.T, url string, pid int) {
	t.Helper()
	query := fmt.Sprintf("SELECT count(*)::text FROM pg_stat_activity WHERE pid = %d AND state = 'active'", pid)
	for queryText(t, url, query) != "1" {
		time.Sleep(5 * time.Millisecond)
	}
}

func TestStalePIDFile(t *testing.T) {
	t.Parallel()
	dir := openTempDir(t)
	p := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	stopTest(t, p)
	data, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// The pid now belongs to a live process that is not a server, nor our own,
	// whose pid the server would not mind because we are its parent.
	bystander := startHelper(t, "hold")
	bystander.line(t)
	stale := fmt.Sprintf("%d\n%s\n1\n5432\n\n\n", bystander.Process.Pid, data.cluster())
	if err := os.WriteFile(data.pidFile(), []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	again := startTest(t, PostgresConfig{DataDir: dir, NoSync: true})
	queryText(t, again.AdminURL(), "SHOW fsync")
	if err := syscall.Kill(bystander.Process.Pid, 0); err != nil {
		t.Errorf("the process with the stale pid was ended: %v", err)
	}
}
