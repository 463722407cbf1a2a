//go:build unix

package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestServerLogStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postgres.log")
	log, err := openServerLog(path)
	if err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("line\n"), 20_000)
	for range 3 * maxLogSize / len(chunk) {
		if n, err := log.Write(chunk); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	log.Write([]byte("the end\n"))
	log.close()
	log.Write([]byte("after the end\n")) // must not fail
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxLogSize {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
	}
	tail := log.tail()
	if len(tail) > maxTailSize || !bytes.HasSuffix(tail, []byte("the end\nafter the end\n")) {
		t.Errorf("the tail has %d bytes and ends %q", len(tail), tail[max(0, len(tail)-40):])
	}

	again, err := openServerLog(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Write([]byte("next start\n"))
	again.close()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(raw, []byte("the end\nnext start\n")) {
		t.Error("the next start does not append to the log")
	}
}
