package docs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// What the pages use: a folder with the binary, and a dev process.
var (
	binary string
	served addresses
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Getenv(insideEnv) != "" {
		return 1, errors.New("a page runs the tests that run the page: mark the block <!-- test: skip, it runs these tests -->")
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "countermand-docs-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if binary, err = product.Build(ctx, dir, product.RaceWanted()); err != nil {
		return 1, err
	}
	log, err := os.Create(filepath.Join(dir, "dev.log"))
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	dev, err := product.StartDev(ctx, binary, filepath.Join(dir, "data"), log)
	if err != nil {
		return 1, fmt.Errorf("%w; its log is:\n%s", err, content(log.Name()))
	}
	served = addresses{http: dev.HTTP, admin: dev.Admin}
	code = m.Run()
	return code, dev.Stop()
}

func content(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
