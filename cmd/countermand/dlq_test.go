package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// dlq runs a command line of dlq and returns what it prints.
func (d *desk) dlq(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := dlqCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(append(args, "--admin", d.URL))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

const aLetter = `{"id":"shop.1","service":"shop","state":"dead","consumer":"shop","event_type":"a.b.v1","revision":3,"error":"two\nlines","event":{"id":"e","data":{"name":"ada"}},"log":[]}`

func TestDLQVerbsAskTheAdminAPI(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"redrive":       {[]string{"redrive", "shop.1"}, `POST /admin/v1/dead-letters/shop.1:redrive  {"by":"eve","reason":"r"}`},
		"with force":    {[]string{"redrive", "shop.1", "--force", "--revision", "3"}, `POST /admin/v1/dead-letters/shop.1:redrive "3" {"by":"eve","reason":"r","force":true}`},
		"a dry run":     {[]string{"discard", "shop.1", "--dry-run"}, `POST /admin/v1/dead-letters/shop.1:discard?dry_run=true  {"by":"eve","reason":"r"}`},
		"edit the data": {[]string{"edit", "shop.1", "--revision", "3", "--data", `{"n":1}`}, `POST /admin/v1/dead-letters/shop.1:edit "3" {"by":"eve","reason":"r","data":{"n":1}}`},
	} {
		t.Run(name, func(t *testing.T) {
			path, _, _ := strings.Cut(strings.TrimPrefix(c.want, "POST "), " ")
			d := newDesk(t, map[string]string{"POST " + path: `{"dry_run":false,"dead_letter":` + aLetter + `}`})
			out, err := d.dlq(t, "", append(c.args, "--by", "eve", "--reason", "r")...)
			if err != nil || len(d.asked) != 1 || d.asked[0] != c.want || !strings.Contains(out, "shop.1") {
				t.Errorf("asked %q, %v; want %q; it prints %s", d.asked, err, c.want, out)
			}
		})
	}
}

func TestDLQEditOpensAnEditorOnTheEvent(t *testing.T) {
	d := newDesk(t, map[string]string{
		"GET /admin/v1/dead-letters/shop.1": aLetter, "POST /admin/v1/dead-letters/shop.1:edit": `{"dead_letter":` + aLetter + `}`,
	})
	t.Setenv("VISUAL", "")
	t.Setenv("EDITOR", "sed -i s/ada/grace/")
	if _, err := d.dlq(t, "", "edit", "shop.1", "--by", "eve", "--reason", "r"); err != nil {
		t.Fatal(err)
	}
	if want := `POST /admin/v1/dead-letters/shop.1:edit "3" {"by":"eve","reason":"r","event":{"id":"e","data":{"name":"grace"}}}`; d.asked[1] != want {
		t.Errorf("asked %q, want %q", d.asked[1], want)
	}
}

func TestDLQBulkWantsTheNumberTyped(t *testing.T) {
	answers := map[string]string{
		"GET /admin/v1/dead-letters:groups?consumer=shop&state=dead": `{"groups":[{"count":1},{"count":1}]}`,
		"POST /admin/v1/dead-letters:bulk": `{"event":"selected","count":{"selected":2}}
{"event":"dead_letter","dead_letter":{"id":"shop.1","outcome":"done"}}
{"event":"dead_letter","dead_letter":{"id":"shop.2","outcome":"refused","code":"redriven_too_often","message":"no"}}
{"event":"finished","count":{"selected":2,"done":1,"refused":1,"not_found":0}}
`,
	}
	order := []string{"redrive", "--consumer", "shop", "--for", "1m", "--by", "eve", "--reason", "r"}
	d := newDesk(t, answers)
	out, err := d.dlq(t, "2\n", order...)
	if code(err) != exitConflict || !strings.Contains(out, "redriven_too_often") {
		t.Errorf("it prints %s, %v", out, err)
	}
	if want := `POST /admin/v1/dead-letters:bulk  {"verb":"redrive","by":"eve","reason":"r","filter":{"state":"dead","consumer":"shop"},"expected_count":2,"rate":50,"seconds_max":60}`; len(d.asked) != 2 || d.asked[1] != want {
		t.Errorf("asked %q, want %q", d.asked, want)
	}
	d = newDesk(t, answers)
	if _, err := d.dlq(t, "3\n", order...); code(err) != wire.ExitFailed || len(d.asked) != 1 {
		t.Errorf("%v, asked %q", err, d.asked)
	}
	if _, err := newDesk(t, nil).dlq(t, "", "redrive", "--reason", "r"); code(err) != wire.ExitUsage {
		t.Errorf("without anything that selects: %v", err)
	}
}

func TestDLQListAndShowPrint(t *testing.T) {
	answers := map[string]string{"GET /admin/v1/dead-letters?limit=20": `{"dead_letters":[` + aLetter + `]}`, "GET /admin/v1/dead-letters/shop.1": aLetter}
	for output, want := range map[string]string{"table": "two lines", "json": `"error": "two\nlines"`, "jsonl": `"error":"two\nlines"`} {
		if out, err := newDesk(t, answers).dlq(t, "", "list", "-o", output); err != nil || !strings.Contains(out, want) {
			t.Errorf("list -o %s prints %s, %v", output, out, err)
		}
	}
	if out, err := newDesk(t, answers).dlq(t, "", "show", "shop.1"); err != nil || !strings.Contains(out, `"name": "ada"`) {
		t.Errorf("show prints %s, %v", out, err)
	}
	if _, err := newDesk(t, answers).dlq(t, "", "show", "shop.9"); err == nil {
		t.Error("show of none is no error")
	}
}
