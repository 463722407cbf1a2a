package embedded

import (
	"fmt"
	"os"
	"testing"
)

// helperEnv makes the test binary play another process: its value names the
// part, the arguments after it are the part's own.
const helperEnv = "COUNTERMAND_EMBEDDED_HELPER"

func TestMain(m *testing.M) {
	part := os.Getenv(helperEnv)
	if part == "" {
		os.Exit(m.Run())
	}
	play, ok := helperParts[part]
	if !ok {
		fmt.Println("no such part:", part)
		os.Exit(1)
	}
	if err := play(os.Args[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
