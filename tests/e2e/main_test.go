package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// What the tests share: the binary, and a dev process with its clients.
var (
	binary   string
	shop     product.Shop
	operator product.Operator
)

// parallelTests is how many tests run at a time: more than there are cores,
// since they wait most of the time.
const parallelTests = "6"

func TestMain(m *testing.M) {
	err := flag.Set("test.parallel", parallelTests) // a flag of the command line wins
	if err != nil {
		panic(err) // there is no such flag
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "countermand-e2e-")
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
		return 1, fmt.Errorf("%w\n%s", err, tail(log.Name()))
	}
	shop, operator = product.NewShop(dev.HTTP), product.NewOperator(dev.Admin)
	code = m.Run()
	if code == 0 {
		err = balance(ctx)
	}
	err = errors.Join(err, dev.Stop())
	content, readErr := os.ReadFile(log.Name())
	err = errors.Join(err, readErr, product.CheckLog(string(content), product.MarkPanic, product.MarkRace, product.MarkError))
	if err != nil || code != 0 {
		fmt.Fprintf(os.Stderr, "the log of the shared dev process ends with:\n%s\n", tail(log.Name()))
	}
	return code, err
}

// balance audits the shop after all tests: whatever they did, the books balance.
func balance(ctx context.Context) error {
	faults, _, err := product.Audit(ctx, shop, operator)
	if err == nil && len(faults) > 0 {
		err = fmt.Errorf("after all tests the books do not balance:\n%s", strings.Join(faults, "\n"))
	}
	return err
}

// tail returns the end of a log.
func tail(path string) string {
	const linesMax = 40
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-linesMax):], "\n")
}
