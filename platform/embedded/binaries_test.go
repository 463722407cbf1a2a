//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeFinder finds what the maps say instead of real programs.
func fakeFinder(installed []string, versions map[string]int, sources ...source) finder {
	return finder{
		installed: func() []string { return installed },
		sources:   sources,
		progress:  func(string) {},
		probe: func(_ context.Context, bin string) (installation, error) {
			major, ok := versions[bin]
			if !ok {
				return installation{}, errors.New("does not run")
			}
			return installation{bin: bin, major: major, version: fmt.Sprint(major, ".1")}, nil
		},
	}
}

func fixedSource(name, bin string, err error) source {
	return source{name, func(context.Context, int) (string, error) { return bin, err }}
}

func TestFinderOrder(t *testing.T) {
	versions := map[string]int{"/old": 13, "/15": 15, "/17": 17, "/dl17": 17}
	noNet := fixedSource("maven", "", errors.New("no network"))
	noApt := fixedSource("apt-get", "", absentError("no apt"))
	download := fixedSource("npm", "/dl17", nil)
	for _, tc := range []struct {
		name      string
		override  string
		installed []string
		sources   []source
		major     int
		want      string
		errs      []string
	}{
		{"first installed one wins", "", []string{"/15", "/17"}, nil, 0, "/15", nil},
		{"the database's version wins", "", []string{"/15", "/17"}, nil, 17, "/17", nil},
		{"too old and broken ones are passed over", "", []string{"/broken", "/old", "/17"}, nil, 0, "/17", nil},
		{"the named one wins", "/17", []string{"/15"}, nil, 0, "/17", nil},
		{"the named one is not replaced", "/broken", []string{"/15"}, nil, 0, "", []string{binEnv, "does not run"}},
		{"the named one must fit the database", "/15", []string{"/17"}, nil, 17, "", []string{"15.1 cannot open a database of version 17"}},
		{"sources come last, in order", "", []string{"/old"}, []source{noNet, noApt, download}, 0, "/dl17", nil},
		{"a source for the database's version", "", []string{"/15"}, []source{noNet, download}, 17, "/dl17", nil},
		{
			"all reasons are told", "",
			[]string{"/old", "/broken"},
			[]source{noNet, noApt},
			0, "",
			[]string{"older than 14", "does not run", "maven: no network", "apt-get: no apt", installCommand()},
		},
		{"nothing at all", "", nil, nil, 0, "", []string{"none found", installCommand()}},
		{
			"the database's version is nowhere", "",
			[]string{"/15"},
			[]source{download},
			16, "",
			[]string{"made by PostgreSQL 16", "/15: PostgreSQL 15.1 cannot open", "npm: /dl17: PostgreSQL 17.1 cannot open"},
		},
	} {
		f := fakeFinder(tc.installed, versions, tc.sources...)
		f.override = tc.override
		inst, err := f.find(t.Context(), tc.major)
		if inst.bin != tc.want || (err != nil) != (tc.errs != nil) {
			t.Errorf("%s: found %q, error %v", tc.name, inst.bin, err)
		}
		for _, part := range tc.errs {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error without %q: %v", tc.name, part, err)
			}
		}
	}
}

func TestFinderStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the reason")
	slow := source{"slow", func(ctx context.Context, _ int) (string, error) {
		cancel(reason)
		<-ctx.Done()
		return "", ctx.Err()
	}}
	never := source{"never", func(context.Context, int) (string, error) {
		t.Error("went on after the context ended")
		return "", nil
	}}
	for range 2 { // while a source is asked, and before
		if _, err := fakeFinder([]string{"/broken"}, nil, slow, never).find(ctx, 0); !errors.Is(err, reason) {
			t.Errorf("error %v, want the reason of the context", err)
		}
		slow = never
	}
}

func TestInstalledBins(t *testing.T) {
	root := t.TempDir()
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{
		"/opt/pg/bin", "/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/17/bin",
		"/usr/pgsql-16/bin", "/opt/homebrew/opt/postgresql@18/bin",
	} {
		makePrograms(t, root+dir)
	}
	if err := os.MkdirAll(root+"/usr/lib/postgresql/18/bin", 0o755); err != nil { // clients only
		t.Fatal(err)
	}
	links := root + "/usr/local/bin"
	if err := os.MkdirAll(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root+"/opt/pg/bin/pg_ctl", links+"/pg_ctl"); err != nil {
		t.Fatal(err)
	}
	got := installedBins(strings.Join([]string{"relative", root + "/none", links}, string(filepath.ListSeparator)), root)
	want := []string{
		root + "/opt/pg/bin", root + "/usr/lib/postgresql/17/bin", root + "/usr/lib/postgresql/15/bin",
		root + "/usr/lib/postgresql/9.6/bin", root + "/usr/pgsql-16/bin", root + "/opt/homebrew/opt/postgresql@18/bin",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func makePrograms(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pg_ctl", "initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 17.10 (x)'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCachePublishesForEveryUser(t *testing.T) {
	acct, err := serverAccount(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	cache := binariesCache{dir: filepath.Join(openTempDir(t), "cache"), acct: acct}
	for range 2 { // the second time it is there already
		stage, err := cache.stage()
		if err != nil {
			t.Fatal(err)
		}
		makePrograms(t, filepath.Join(stage, "server", "bin"))
		bin, err := cache.publish(filepath.Join(stage, "server"), "test-17.10.0")
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{bin}; !slices.Equal(cache.bins(), want) {
			t.Errorf("the cache has %q, want %q", cache.bins(), want)
		}
		info, err := os.Stat(filepath.Join(bin, "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o755 {
			t.Errorf("postgres has mode %o", info.Mode().Perm())
		}
		if inst, err := acct.probe(t.Context(), bin); err != nil || inst.major != 17 || inst.version != "17.10" {
			t.Errorf("probe: %+v, %v", inst, err)
		}
	}
	if acct.switchUser {
		cache := binariesCache{dir: t.TempDir(), acct: acct}
		if _, err := cache.stage(); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("a cache folder that the server cannot get to: %v", err)
		}
	}
	empty, err := cache.stage()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cache.publish(empty, "test-18.0.0"); err == nil {
		t.Error("published a download without programs")
	}
}

func TestAptErrors(t *testing.T) {
	output := "Reading package lists...\nErr:1 http://x\nE: one\nE: two\nE: three\n"
	if got := string(aptErrors([]byte(output))); got != "E: two; E: three" {
		t.Errorf("errors %q", got)
	}
	if got := string(aptErrors([]byte("Killed\n"))); got != "Killed\n" {
		t.Errorf("without an error line: %q", got)
	}
}

func TestLinkLibraries(t *testing.T) {
	pkg := t.TempDir()
	if err := os.MkdirAll(filepath.Join(pkg, "native", "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(pkg, "native", "pg-symlinks.json")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := linkLibraries(t.TempDir()); err != nil {
		t.Errorf("a package without links: %v", err)
	}
	write(`[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`)
	for range 2 {
		if err := linkLibraries(pkg); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.Readlink(filepath.Join(pkg, "native", "lib", "libpq.so.5")); err != nil || got != "libpq.so.5.17" {
		t.Errorf("link to %q, %v", got, err)
	}
	write(`[{"source":"native/lib/x","target":"../../outside"}]`)
	if err := linkLibraries(pkg); err == nil {
		t.Error("made a link outside the package")
	}
	write(`nonsense`)
	if err := linkLibraries(pkg); err == nil {
		t.Error("read a broken list")
	}
}
