package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// buffer is a log that is written and read at the same time.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start runs a dev process of the test's own. It is killed at the end of the
// test, should it still run; a failed test shows its log.
func start(t *testing.T, env []string, args ...string) (*product.Process, *buffer) {
	t.Helper()
	log := &buffer{}
	t.Cleanup(func() {
		if err := product.CheckLog(log.String(), product.MarkPanic, product.MarkRace, product.MarkError); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of dev %v:\n%s", args, log)
		}
	})
	process, err := product.Start(t.Context(), binary, log, env, append([]string{"dev"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	return process, log
}

// TestAStopKeepsEverything stops a dev process with SIGTERM while a payment is
// on its way, and starts it again on the same folder.
func TestAStopKeepsEverything(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	first, _ := start(t, []string{"COUNTERMAND_HTTP_ADDR=127.0.0.1:0", "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0"}, "--data-dir", data)
	if want := fmt.Sprintf("ready  http %s  admin %s  open: no credential is asked for", first.HTTP, first.Admin); first.ReadyLine != want {
		t.Errorf("the ready line is %q, want %q", first.ReadyLine, want)
	}
	before := product.NewShop(first.HTTP)
	at := func(s product.Shop, body string, headers ...string) product.Answer {
		t.Helper()
		answer, err := s.Place(t.Context(), body, headers...)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	tea := product.NewCheckout("ada", "TEA-001", 2, "tok_ok").Body()
	completed := operationOf(t, at(before, tea, "Prefer: wait=10", keyed(t)))
	compensated := operationOf(t, at(before, product.NewCheckout("ada", "TEA-001", 1, "tok_declined").Body(), "Prefer: wait=10"))
	slow := product.NewCheckout("ada", "MUG-001", 1, "tok_slow").Body()
	running := accepted(t, at(before, slow))
	documents := make(map[string]string)
	for _, id := range []string{completed, compensated} {
		documents[id] = document(t, before, id)
	}
	// One more client waits for a slow payment while the process stops.
	waiting := make(chan product.Answer, 1) // the one answer
	go func() {
		answer, err := before.Place(t.Context(), slow, "Prefer: wait=20")
		if err != nil {
			answer.Body = []byte(err.Error())
		}
		waiting <- answer
	}()
	err := product.Await(t.Context(), endTimeout, func() error {
		counts, err := product.NewOperator(first.Admin).Counts(t.Context())
		if err == nil && counts.All() < 4 {
			err = fmt.Errorf("there are %v sagas, want 4", counts)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	below, err := product.Descendants(t.Context(), first.PID)
	if err != nil || len(below) == 0 {
		t.Fatalf("below the process run %v (error %v), want a private Postgres", below, err)
	}

	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	answer := <-waiting
	id := accepted(t, answer)
	if err := product.AwaitGone(t.Context(), below, 5*time.Second); err != nil {
		t.Errorf("the process left something running: %v", err)
	}
	if output := first.Output(); output != "" {
		t.Errorf("stdout has more than the ready line: %q", output)
	}

	second, _ := start(t, nil, "--json", "--data-dir", data, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	after := product.NewShop(second.HTTP)
	for old, was := range documents {
		if is := document(t, after, old); is != was {
			t.Errorf("operation %s was\n%s\nand is\n%s", old, was, is)
		}
	}
	repeated := at(after, tea, keyed(t))
	if accepted(t, repeated) != completed || repeated.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the repeated request is answered with %s, want the operation %s replayed", repeated, completed)
	}
	for _, id := range []string{running, id} {
		op, err := after.Finished(t.Context(), id, endTimeout)
		if err != nil || op.Status != "completed" {
			t.Errorf("the operation that ran during the stop ended %+v: %v", op, err)
		}
	}
	faults, sagas, err := product.Audit(t.Context(), after, product.NewOperator(second.Admin))
	if err != nil || len(faults) > 0 || len(sagas) != 4 {
		t.Errorf("there are %d sagas, want 4; faults %q: %v", len(sagas), faults, err)
	}
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
}

// document reads an operation as it is written.
func document(t *testing.T, s product.Shop, id string) string {
	t.Helper()
	answer, err := s.Do(t.Context(), http.MethodGet, "/v1/operations/"+id, "")
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("operation %s is answered with %s: %v", id, answer, err)
	}
	return string(answer.Body)
}

// TestATakenDefaultPortIsReplaced makes sure that both default ports are taken,
// by the test if by nobody else.
func TestATakenDefaultPortIsReplaced(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"8080", "8081"} {
		if taken, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			t.Cleanup(func() { _ = taken.Close() })
		}
	}
	data := filepath.Join(t.TempDir(), "data")
	dev, log := start(t, []string{"COUNTERMAND_LOG_FORMAT=json"}, "--json", "--data-dir", data)

	var ready map[string]string
	if err := json.Unmarshal([]byte(dev.ReadyLine), &ready); err != nil || len(ready) != 3 || ready["event"] != "ready" ||
		ready["http"] != dev.HTTP || ready["admin"] != dev.Admin {
		t.Errorf("the ready line is %s (error %v), want event, http and admin", dev.ReadyLine, err)
	}
	for what, address := range map[string]string{"http": dev.HTTP, "admin": dev.Admin} {
		at, err := url.Parse(address)
		if err != nil || at.Hostname() != "127.0.0.1" || at.Port() == "8080" || at.Port() == "8081" || len(at.Port()) != 4 {
			t.Errorf("%s is at %q (error %v), want one of the next ports of 127.0.0.1", what, address, err)
			continue
		}
		err = product.Await(t.Context(), 10*time.Second, func() error { // the log comes by another pipe than the ready line
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "default port is taken") && strings.Contains(line, at.Host) {
					return nil
				}
			}
			return fmt.Errorf("the log does not say that %s is at %s because the default port is taken", what, at.Host)
		})
		if err != nil {
			t.Error(err)
		}
	}
	if answer, err := product.NewShop(dev.HTTP).Stock(t.Context(), "TEA-001"); err != nil || answer.OnHand != 100000 {
		t.Errorf("stock is %+v: %v", answer, err)
	}

	if err := dev.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAFolderHasOneDevProcess(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	ports := []string{"--data-dir", data, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	dev, _ := start(t, nil, append(ports, "--json")...)
	result, err := product.Run(t.Context(), binary, nil, append([]string{"dev"}, ports...)...)
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 1 || !strings.Contains(result.Stderr, data) || result.Stdout != "" {
		t.Errorf("the second one ended %+v, want code 1 and the folder on stderr", result)
	}
	if _, err := product.NewShop(dev.HTTP).Stock(t.Context(), "TEA-001"); err != nil {
		t.Errorf("the first one was disturbed: %v", err)
	}
	if err := dev.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := dev.Wait(); err != nil {
		t.Errorf("after SIGINT: %v", err)
	}
}

// TestATakenPortThatWasAskedForIsAnError finds everything stopped that had been
// started before the port was tried.
func TestATakenPortThatWasAskedForIsAnError(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for _, flag := range []string{"--http", "--admin"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			other := map[string]string{"--http": "--admin", "--admin": "--http"}[flag]
			result, err := product.Run(t.Context(), binary, nil, "dev", "--data-dir", data, flag, taken.Addr().String(), other, "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if result.Code != 1 || !strings.Contains(result.Stderr, taken.Addr().String()) || result.Stdout != "" {
				t.Errorf("it ended %+v, want code 1 and the address on stderr", result)
			}
			err = filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.Name() == "postmaster.pid" {
					t.Errorf("%s shows that Postgres was not stopped", path)
				}
				return err
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have ended before it made the folder
				t.Error(err)
			}
		})
	}
}
