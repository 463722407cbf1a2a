//go:build unix && download

package embedded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tests of this file use the network and are run by hand:
//
//	go test -tags download -run TestDownload -v .
func TestDownload(t *testing.T) {
	dir, err := openDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	acct, err := serverAccount(dir.cluster())
	if err != nil {
		t.Fatal(err)
	}
	cacheDir := filepath.Join(openTempDir(t), "a cache")
	f, err := newFinder(dir, acct, PostgresConfig{CacheDir: cacheDir, Progress: func(step string) { t.Log(step) }})
	if err != nil {
		t.Fatal(err)
	}
	f.override = ""
	for _, s := range f.sources {
		if s.name == "apt-get" { // changes the machine; needs one to throw away
			continue
		}
		for _, major := range []int{0, minMajor, 18} {
			f.installed, f.sources = func() []string { return nil }, []source{s}
			inst, err := f.find(t.Context(), major)
			if err != nil {
				t.Error(err)
				continue
			}
			t.Log(inst.bin, inst.version)
			t.Setenv(binEnv, inst.bin)
			p := startTest(t, PostgresConfig{DataDir: openTempDir(t)})
			if got := queryText(t, p.AdminURL(), "SELECT version()"); !strings.Contains(got, inst.version) {
				t.Errorf("%s runs, want %s", got, inst.version)
			}
			stopTest(t, p)
		}
	}
	left, err := filepath.Glob(filepath.Join(cacheDir, ".download-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("downloads left behind: %q, %v", left, err)
	}
	if _, err := os.Stat(noCluster); err == nil {
		t.Errorf("%s is left behind", noCluster)
	}
}
