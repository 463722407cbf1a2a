package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// outbox runs a command line of outbox and returns what it prints.
func (d *desk) outbox(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := outboxCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(append(args, "--admin", d.URL))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestOutboxPrints(t *testing.T) {
	const status = `{"outboxes":[{"service":"shop","waiting":2,"oldest":"2026-01-01T00:00:00Z","dead":1,"parked":3,"delayed":0,"failure":"away",
		"lanes":[{"lane":0,"waiting":2,"dead":0,"owner":{"application":"relay","pid":7}},{"lane":1,"waiting":0,"dead":0}]}]}`
	const rows = `{"rows":[{"id":"shop.1","service":"shop","lane":0,"state":"dead","why":"because","topic":"t","publish_id":"p","created_at":"2026-01-01T00:00:00Z"}]}`
	answers := map[string]string{
		"GET /admin/v1/outboxes?": status, "GET /admin/v1/outboxes": status,
		"GET /admin/v1/outboxes:stuck?limit=50&older=5": rows,
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"status":           {[]string{"status"}, "1 of 2"},
		"status by lane":   {[]string{"status", "--lanes"}, "relay, backend 7"},
		"a lane of nobody": {[]string{"status", "--lanes"}, "nobody"},
		"status as a line": {[]string{"status", "-o", "jsonl"}, `"failure":"away"`},
		"status as json":   {[]string{"status", "-o", "json"}, `"failure": "away"`},
		"stuck":            {[]string{"stuck"}, "because"},
		"stuck as a line":  {[]string{"stuck", "-o", "jsonl"}, `"why":"because"`},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := newDesk(t, answers).outbox(t, c.args...); err != nil || !strings.Contains(out, c.want) {
				t.Errorf("it prints %s, %v", out, err)
			}
		})
	}
}

func TestOutboxOrders(t *testing.T) {
	const answer = `{"dry_run":false,"row":{"id":"shop.1"},"followers":3}`
	for name, c := range map[string]struct{ args, want string }{
		"requeue":   {"requeue shop.1", `POST /admin/v1/outbox-rows/shop.1:requeue  {"by":"eve","reason":"r"}`},
		"a dry run": {"discard shop.1 --dry-run", `POST /admin/v1/outbox-rows/shop.1:discard?dry_run=true  {"by":"eve","reason":"r"}`},
	} {
		t.Run(name, func(t *testing.T) {
			path, _, _ := strings.Cut(strings.TrimPrefix(c.want, "POST "), " ")
			d := newDesk(t, map[string]string{"POST " + path: answer})
			out, err := d.outbox(t, append(strings.Fields(c.args), "--by", "eve", "--reason", "r")...)
			if err != nil || len(d.asked) != 1 || d.asked[0] != c.want || !strings.Contains(out, "3 follow") {
				t.Errorf("asked %q, %v; want %q; it prints %s", d.asked, err, c.want, out)
			}
		})
	}
	d := newDesk(t, map[string]string{"POST /admin/v1/outboxes:flush?wait=1": `{"outboxes":[{"service":"shop","left":2,"failure":"away"}]}`})
	if _, err := d.outbox(t, "flush", "--wait", "1s"); code(err) != wire.ExitFailed || !strings.Contains(err.Error(), "away") {
		t.Errorf("flush that leaves some: %v", err)
	}
	if _, err := newDesk(t, nil).outbox(t, "requeue", "shop.1"); code(err) != wire.ExitUsage {
		t.Errorf("without a reason: %v", err)
	}
}
