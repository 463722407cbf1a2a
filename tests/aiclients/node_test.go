package aiclients

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The official clients for JavaScript, with a mock of the providers that others have
// written. "make ai-clients" sets AICLIENTS_NODE where Node.js is at hand, and says so
// loudly where it is not.
func TestNodeClients(t *testing.T) {
	if os.Getenv("AICLIENTS_NODE") == "" {
		t.Skip("AICLIENTS_NODE is not set: run make ai-clients, which installs what this needs")
	}
	mock := exec.CommandContext(t.Context(), "node", "mock.mjs")
	mock.Dir, mock.Stderr = "node", os.Stderr
	input, err := mock.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := mock.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = input.Close()
		_ = mock.Wait() // it may have been killed
	}()
	url, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url = strings.TrimSpace(url)
	t.Setenv("AICLIENTS_UPSTREAM", url)
	suite := exec.CommandContext(t.Context(), "node", "suite.mjs", start(t), url)
	suite.Dir = "node"
	report, err := suite.CombinedOutput()
	t.Logf("%s", report)
	if err != nil {
		t.Error(err)
	}
}
