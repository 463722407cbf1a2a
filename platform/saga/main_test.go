package saga_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// leaks fails the test when it leaves goroutines behind. Tests in parallel would
// see each other's, so it is for those that run alone.
func leaks(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was; if that is right, run: go test ./saga -update\n%s", path, got)
	}
}
