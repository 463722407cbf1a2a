package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// binary is what all tests run.
var binary string

func TestMain(m *testing.M) {
	if addr := os.Getenv(natsAddr); addr != "" {
		if err := serveNATS(addr, os.Getenv(natsStore)); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(1)
		}
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "countermand-chaos-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if binary, err = product.Build(context.Background(), dir, product.RaceWanted()); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// openLog returns a log that survives kills. At the end of the test it must show
// no crash but those of the test; its end is shown when the test fails.
func openLog(t *testing.T, dir, name string) *os.File {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		content, err := os.ReadFile(log.Name())
		if err = errors.Join(err, product.CheckLog(string(content), product.MarkPanic, product.MarkRace)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("the log of %s ends with:\n%s", name, tail(log.Name()))
		}
		_ = log.Close()
	})
	return log
}

// tail returns the end of a log.
func tail(path string) string {
	const linesMax = 30
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-linesMax):], "\n")
}
