package aiclients

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The official clients for JavaScript, with a mock of the providers that others have
// written. "make ai-clients" installs what this needs.
func TestNodeClients(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("the official clients for JavaScript are not tested: install Node.js 20 or newer, and run make ai-clients")
	}
	if _, err := os.Stat("node/node_modules"); err != nil {
		t.Fatal("the official clients for JavaScript are not installed: run make ai-clients, which does so")
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
