package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// webhook runs a command line of webhook and returns what it prints.
func (d *desk) webhook(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := webhookCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(append(args, "--admin", d.URL))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestWebhook(t *testing.T) {
	const (
		one = `{"id":"w1","sink":"https://example.com/hook","protocol":"HTTP","tenant":"acme","state":"active","types":["a.b.v1"],
			"created":"2026-01-01T00:00:00Z","restuntil":"2026-01-02T00:00:00Z"}`
		delivered = `{"id":"d1","subscription":"w1","event_id":"e1","event_type":"a.b.v1","state":"delivered","attempts":1,"status":200,"created":"2026-01-01T00:00:00Z"}`
		refused   = `{"id":"d2","subscription":"w1","event_id":"e2","event_type":"a.b.v1","state":"dead","attempts":1,"status":400,"created":"2026-01-01T00:00:00Z","error":"no"}`
	)
	answers := map[string]string{
		"GET /admin/v1/webhooks?limit=200":                         `{"webhooks":[` + one + `],"next":"w1"}`,
		"GET /admin/v1/webhooks?cursor=w1&limit=200":               `{"webhooks":[` + strings.Replace(one, "w1", "w2", 1) + `]}`,
		"GET /admin/v1/webhooks?limit=200&state=paused":            `{"webhooks":[]}`,
		"GET /admin/v1/webhooks/w1":                                one,
		"POST /admin/v1/webhooks/w1/pause":                         strings.Replace(one, "active", "paused", 1),
		"POST /admin/v1/webhooks/w1/resume":                        one,
		"POST /admin/v1/webhooks/w1/approve":                       one,
		"POST /admin/v1/webhooks/w1/test":                          strings.Replace(delivered, `"attempts":1`, `"attempts":0`, 1),
		"GET /admin/v1/webhooks/w1/deliveries/d1":                  delivered,
		"POST /admin/v1/webhooks/w2/test":                          refused,
		"GET /admin/v1/webhooks/w1/deliveries?limit=50":            `{"deliveries":[` + delivered + `]}`,
		"GET /admin/v1/webhooks/w1/deliveries?limit=50&state=dead": `{"deliveries":[` + refused + `]}`,
		"POST /admin/v1/webhooks/w1/redeliver":                     `{"redelivered":3}`,
		"DELETE /admin/v1/webhooks/w1":                             ``,
	}
	for name, c := range map[string]struct {
		args, want, asked string
	}{
		"list of all pages":   {"list", "w2", ""},
		"list tells of rests": {"list", "rests until 2026-01-02", ""},
		"list of none":        {"list --state paused -o json", "[]", ""},
		"get":                 {"get w1", `"tenant": "acme"`, ""},
		"pause":               {"pause w1 --reason r", "paused", `POST /admin/v1/webhooks/w1/pause  {"reason":"r"}`},
		"resume":              {"resume w1", "active", ""},
		"approve":             {"approve w1 -o jsonl", `"state":"active"`, ""},
		"test":                {"test w1", "delivered", ""},
		"deliveries":          {"deliveries w1", "d1", ""},
		"dead ones":           {"deliveries w1 --state dead", "400", ""},
		"one delivery":        {"deliveries w1 d1", `"attempts": 1`, ""},
		"redeliver one":       {"redeliver w1 d1", "3 redelivered", `POST /admin/v1/webhooks/w1/redeliver  {"delivery":"d1","state":"dead"}`},
		"redeliver some":      {"redeliver w1 --type a.b.v1", "3 redelivered", `POST /admin/v1/webhooks/w1/redeliver  {"state":"dead","type":"a.b.v1"}`},
		"delete":              {"delete w1", "", "DELETE /admin/v1/webhooks/w1"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, answers)
			out, err := d.webhook(t, strings.Fields(c.args)...)
			if err != nil || !strings.Contains(out, c.want) {
				t.Errorf("it prints %s, %v", out, err)
			}
			if c.asked != "" && d.asked[0] != c.asked {
				t.Errorf("it asks %q, want %q", d.asked[0], c.asked)
			}
		})
	}
	if out, err := newDesk(t, answers).webhook(t, "test", "w2"); err == nil || !strings.Contains(out, "400") {
		t.Errorf("a test that fails: %s, %v", out, err)
	}
}
