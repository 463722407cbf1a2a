// Package product builds the countermand binary, runs it as a user would, and
// speaks to it as clients and operators do. It is what black-box tests and
// benchmarks share.
package product

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Root returns the root folder of the repository.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("product: the compiler keeps no file names")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// RaceWanted reports whether tests should run a binary with the race detector:
// they run under it themselves, or COUNTERMAND_TEST_RACE is 1.
func RaceWanted() bool { return raceEnabled || os.Getenv("COUNTERMAND_TEST_RACE") == "1" }

// BinaryEnv is the environment variable with the path of a binary that was compiled
// from the working tree a moment ago, so that each package of tests need not do it.
const BinaryEnv = "COUNTERMAND_TEST_BINARY"

// Build compiles the binary into dir and returns its path, or that of the one in
// [BinaryEnv]. race builds it with the race detector, in any case.
func Build(ctx context.Context, dir string, race bool) (string, error) {
	if binary := os.Getenv(BinaryEnv); binary != "" && !race {
		return binary, nil
	}
	binary := filepath.Join(dir, "countermand")
	args := []string{"build", "-trimpath", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	command := exec.CommandContext(ctx, "go", append(args, "./cmd/countermand")...)
	command.Dir = Root()
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build countermand: %w\n%s", err, output)
	}
	return binary, nil
}

// Environment returns the environment of a process under test: that of the
// tests, without what would configure the product, and then extra.
func Environment(extra ...string) []string {
	kept := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "COUNTERMAND_POSTGRES_BIN": // says where the machine keeps its server
			return false
		case "DATABASE_URL", "DATABASE_URL_FILE", "NATS_URL", "NATS_URL_FILE":
			return true
		}
		return strings.HasPrefix(name, "COUNTERMAND_") || strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "KAFKA_")
	})
	return append(kept, extra...)
}
