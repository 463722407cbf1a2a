package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// key runs a command line of key and returns what it prints.
func (d *desk) key(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := keyCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(append(args, "--admin", d.URL))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestKey(t *testing.T) {
	const (
		one  = `{"id":"abc","tenant":"acme","client":"shop","scopes":["a","b"],"created_at":"2026-01-01T00:00:00Z","created_by":"eve","revoked_at":"2026-01-02T00:00:00Z"}`
		made = `{"key":` + one + `,"secret":"cmk_abc_s"}`
	)
	answers := map[string]string{
		"POST /admin/v1/keys": made, "POST /admin/v1/keys/abc:rotate": made, "POST /admin/v1/keys/abc:revoke": one,
		"GET /admin/v1/keys?client=shop&ended=true&tenant=acme": `{"keys":[` + one + `]}`,
	}
	why := []string{"--by", "eve", "--reason", "r"}
	for name, c := range map[string]struct {
		args         []string
		asked, print string
	}{
		"create": {
			append([]string{"create", "--tenant", "acme", "--client", "shop", "--scope", "a,b"}, why...),
			`POST /admin/v1/keys  {"tenant":"acme","client":"shop","scopes":["a","b"],"by":"eve","reason":"r"}`, "cmk_abc_s\n\nkey abc of acme/shop; keep it now",
		},
		"create as json":  {append([]string{"create", "--tenant", "acme", "--client", "shop", "-o", "jsonl"}, why...), "", `"secret":"cmk_abc_s"`},
		"rotate":          {append([]string{"rotate", "abc", "--overlap", "1h"}, why...), `POST /admin/v1/keys/abc:rotate  {"by":"eve","reason":"r","overlap_seconds":3600}`, "cmk_abc_s"},
		"revoke":          {append([]string{"revoke", "abc"}, why...), `POST /admin/v1/keys/abc:revoke  {"by":"eve","reason":"r"}`, "abc  of acme/shop  revoked"},
		"list":            {[]string{"list", "--tenant", "acme", "--client", "shop", "--ended"}, "", "a b"},
		"list as a line":  {[]string{"list", "--tenant", "acme", "--client", "shop", "--ended", "-o", "jsonl"}, "", `"id":"abc"`},
		"list with state": {[]string{"list", "--tenant", "acme", "--client", "shop", "--ended"}, "", "revoked 2026-01-0"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, answers)
			out, err := d.key(t, c.args...)
			if err != nil || !strings.Contains(out, c.print) {
				t.Errorf("it prints %s, %v", out, err)
			}
			if c.asked != "" && (len(d.asked) != 1 || d.asked[0] != c.asked) {
				t.Errorf("it asks %q, want %q", d.asked, c.asked)
			}
		})
	}
	quiet(t)
	for _, args := range [][]string{
		append([]string{"key", "create", "--tenant", "acme"}, why...),
		append([]string{"key", "create", "--tenant", "acme", "--client", "shop", "--expires-in", "-1h"}, why...),
		{"key", "create", "--tenant", "acme", "--client", "shop"},
		{"key", "revoke", "abc"},
	} {
		if got := run(t.Context(), args); got != wire.ExitUsage {
			t.Errorf("%q: exit code %d", args, got)
		}
	}
}
