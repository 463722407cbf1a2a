//go:build unix

package tempserver

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestStartSweepsAbandonedServers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	old := time.Now().Add(-2 * abandonedAfter)
	for name, modified := range map[string]time.Time{
		prefix + "abandoned": old,
		prefix + "new":       time.Now(),
		"something-else":     old,
	} {
		dir := filepath.Join(os.TempDir(), name)
		if err := os.MkdirAll(filepath.Join(dir, "pgdata"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, modified, modified); err != nil {
			t.Fatal(err)
		}
	}

	s, err := Start(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(s.dir, old, old); err != nil {
		t.Fatal(err)
	}
	sweep(t.Context())
	for name, want := range map[string]bool{
		prefix + "abandoned": false,
		prefix + "new":       true,
		"something-else":     true,
		filepath.Base(s.dir): true, // old but alive
	} {
		if _, err := os.Stat(filepath.Join(os.TempDir(), name)); (err == nil) != want {
			t.Errorf("%s: %v, want it to be there: %v", name, err, want)
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir); err == nil {
		t.Error("the folder is left after Stop")
	}
}

func TestServerIsInMemoryUnlessTMPDIRSaysWhere(t *testing.T) {
	t.Setenv("TMPDIR", "")
	s, err := Start(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := os.TempDir()
	if roomInMemory() {
		want = memoryFolder
	}
	if got := filepath.Dir(s.dir); got != want {
		t.Errorf("it is in %s, want %s", got, want)
	}
	old := time.Now().Add(-2 * abandonedAfter)
	abandoned := filepath.Join(want, prefix+"abandoned-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(abandoned, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.dir, abandoned} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	sweep(t.Context())
	if _, err := os.Stat(s.dir); err != nil {
		t.Errorf("a server that runs was swept: %v", err)
	}
	if _, err := os.Stat(abandoned); err == nil {
		t.Error("what a killed process left is there still")
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}
