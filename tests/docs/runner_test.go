package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// smallRepository is one that is copied in no time.
func smallRepository(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "Makefile"), []byte("all:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestAGoodPagePasses(t *testing.T) {
	page, err := os.ReadFile("testdata/good.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := parsePage(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if err := playBlocks(t, smallRepository(t), blocks, t.Logf); err != nil {
		t.Errorf("testdata/good.md:%v", err)
	}
}

// TestABadPageFails makes sure that nothing wrong goes unnoticed.
func TestABadPageFails(t *testing.T) {
	const fence = "```"
	sh := func(text string) string { return fence + "sh\n" + text + "\n" + fence + "\n" }
	for name, test := range map[string]struct{ page, says string }{
		"the last command fails":     {sh("echo why\nfalse"), "why"},
		"a command before it fails":  {sh("false\ntrue"), "a command failed"},
		"a part of a pipe is empty":  {"<!-- test: expect \"tea\" -->\n" + sh("echo coffee"), `no "tea"`},
		"another code":               {"<!-- test: exit 3 -->\n" + sh("(exit 4)"), "code 4, want 3"},
		"success where failure was":  {"<!-- test: exit 3 -->\n" + sh("true"), "code 0, want 3"},
		"it never happens":           {"<!-- test: within 300ms -->\n" + sh("test -e never"), "code 1"},
		"an exit of the shell":       {sh("exit 0"), "ended"},
		"output that is not there":   {sh("echo a; echo b") + "<!-- test: output -->\n" + fence + "\nb\na\n" + fence, `show "a"`},
		"an id that is none":         {sh("echo id tea") + "<!-- test: output -->\n" + fence + "\nid 019ab0c3-6a3f-8c1e-9d2b-5a7f30c2e911\n" + fence, "does not show"},
		"a diff that does not apply": {"<!-- test: patch -->\n" + fence + "diff\n--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n" + fence, "does not apply"},
		"a file outside":             {"<!-- test: file ../out -->\n" + fence + "\na\n" + fence, "not within"},
	} {
		t.Run(name, func(t *testing.T) {
			blocks, err := parsePage(test.page)
			if err != nil {
				t.Fatal(err)
			}
			if err := playBlocks(t, smallRepository(t), blocks, t.Logf); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("it ended with %v, want a word of %q", err, test.says)
			}
		})
	}
}

func TestADirectiveThatMakesNoSenseIsRefused(t *testing.T) {
	const block = "\n```sh\ntrue\n```\n"
	for page, says := range map[string]string{
		"<!-- test: skip -->" + block:                                         "reason",
		"<!-- test: dance -->" + block:                                        "no directive",
		"<!-- test: expect tea -->" + block:                                   "double quotes",
		"<!-- test: exit 0 -->" + block:                                       "1 to 255",
		"<!-- test: within soon -->" + block:                                  "such as 10s",
		"<!-- test: output -->" + block:                                       "not sh",
		"<!-- test: exit 1 -->\n```text\na\n```":                              "for sh blocks",
		"<!-- test: background \"a\" -->\n<!-- test: exit 1 -->" + block:      "no other",
		"<!-- test: exit 1 -->\nSome text.\n" + block:                         "right above",
		"<!-- test: exit 1 -->\n":                                             "right above",
		"```bash\ntrue\n```\n":                                                "mark it sh",
		"```sh\ntrue\n":                                                       "no end",
		"<!-- test: dance -->" + block + "<!-- test: skip -->" + block + "\n": "reason",
	} {
		if _, err := parsePage(page); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the page\n%s\nis refused with %v, want a word of %q", page, err, says)
		}
	}
}
