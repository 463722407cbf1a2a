package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/events/compat"
	"github.com/countermand/countermand/events/schema"
)

// An earlier version is the same in a folder, in a document and in git.
func TestSchemaCheck(t *testing.T) {
	quiet(t)
	folder := t.TempDir()
	schemas := filepath.Join(folder, "sub", "schemas")
	for _, args := range []string{"spec jsonschema --out " + schemas, "spec asyncapi --broker kafka --out " + folder} {
		if code := run(t.Context(), strings.Fields(args)); code != wire.ExitOK {
			t.Fatalf("%s: exit code %d", args, code)
		}
	}
	commit := func(message string) {
		t.Helper()
		for _, args := range [][]string{{"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", message}} {
			if out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", folder}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("git %s: %s", args, out)
			}
		}
	}
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", folder).CombinedOutput(); err != nil {
		t.Fatalf("git init: %s", out)
	}
	commit("sound")

	document := filepath.Join(folder, "asyncapi-kafka.json")
	t.Chdir(filepath.Join(folder, "sub"))
	check := func(want int, against ...string) {
		t.Helper()
		if got := run(t.Context(), append([]string{"schema", "check", "--against"}, against...)); got != want {
			t.Errorf("against %s: exit code %d, want %d", against, got, want)
		}
	}
	check(wire.ExitOK, "schemas")
	check(wire.ExitOK, document)
	check(wire.ExitOK, "HEAD", "--path", "schemas")

	// The version before sent a note that the contract of today does not know.
	change := func(file string) {
		t.Helper()
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.ReplaceAll(content, []byte(`"reason": {`), []byte(`"note": {"type": "string"}, "reason": {`))
		if bytes.Equal(content, changed) {
			t.Fatalf("%s has no reason", file)
		}
		if err := os.WriteFile(file, changed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	change(filepath.Join("schemas", "shop.order.cancel.v1.json"))
	change(document)
	check(wire.ExitFailed, "schemas")
	check(wire.ExitFailed, document)
	check(wire.ExitOK, "HEAD", "--path", "schemas") // the work tree does not count
	commit("with a note")
	check(wire.ExitFailed, "HEAD", "--path", "schemas")
	check(wire.ExitOK, "HEAD~1", "--path", "schemas")

	check(wire.ExitUsage, "HEAD", "--path", "nowhere")
	check(wire.ExitUsage, "no-such-revision", "--path", "schemas")
	check(wire.ExitUsage, "--upload-pack=x", "--path", "schemas")
	check(wire.ExitUsage, t.TempDir())
	check(wire.ExitUsage, filepath.Join("schemas", "shop.order.cancel.v1.json"))
}

func TestSchemaCheckSaysWhatToDo(t *testing.T) {
	before := map[string][]byte{"a.b.do.v1": []byte(`{"type":"object","properties":{"n":{"type":"string"}}}`)}
	now := []schema.Schema{{Name: "a.b.do.v1", Kind: schema.Request, Document: []byte(`{"type":"object","properties":{"n":{"type":"integer"}}}`)}}
	var out, words bytes.Buffer
	if err := checkSchemas(&out, &words, "table", before, now); err == nil {
		t.Error("want an error")
	}
	for _, part := range []string{"a.b.do.v1#/properties/n/type", "fix: ", "a.b.do.v2"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in %s", part, &out)
		}
	}
	out.Reset()
	_ = checkSchemas(&out, &words, "json", before, now)
	var found []compat.Violation
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || len(found) != 1 || found[0].Pointer != "/properties/n/type" {
		t.Errorf("%s: %v", &out, err)
	}
}
