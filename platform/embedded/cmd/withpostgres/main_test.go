//go:build unix

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

const beCommand = "COUNTERMAND_WITHPOSTGRES_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(beCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// command is this test binary as withpostgres. Without a URL it starts a server.
func command(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), beCommand+"=1", embeddedtest.DatabaseURLEnv+"="+url, embeddedtest.DatabaseServerEnv+"=")
	cmd.Stderr = os.Stderr
	return cmd
}

func TestRunsCommandWithServer(t *testing.T) {
	cmd := command(t, "", "--", "sh", "-c", `echo "$`+embeddedtest.DatabaseURLEnv+`"; echo "$`+embeddedtest.DatabaseServerEnv+`"; read wait; exit 7`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	url, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	version, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url, version = strings.TrimSpace(url), strings.TrimSpace(version)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if number := conn.PgConn().ParameterStatus("server_version"); number == "" || !strings.Contains(version, number) {
		t.Errorf("version %q, the server says %q", version, number)
	}
	conn.Close(t.Context())
	in.Close()
	io.Copy(io.Discard, out)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("exit code %d, want the command's 7", got)
	}
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Error("the server runs on")
	}
}

func TestPassesSignalsOn(t *testing.T) {
	for script, want := range map[string]int{
		`trap 'exit 3' TERM; echo ready; while :; do read wait; done`: 3,
		`echo ready; read wait`: 128 + int(syscall.SIGTERM),
	} {
		cmd := command(t, "postgres://given@host/x", "sh", "-c", script)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d", script, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{
		{nil, 2},
		{[]string{"--"}, 2},
		{[]string{"--", "/no/such/command"}, 1},
	} {
		cmd := command(t, "postgres://given@host/x", tc.args...)
		cmd.Stderr = nil
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != tc.want {
			t.Errorf("%q: exit code %d, want %d", tc.args, got, tc.want)
		}
	}
}
