package route_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"
)

const guarded = `
version: 1
providers: {simulated: {preset: simulated}}
deployments: {d: {provider: simulated, model: "*"}}
models: {"sim-*": d}
`

func TestGuards(t *testing.T) {
	p := start(t, guarded+`guards:
  request: [{allow: "!text.lowerAscii().contains('bomb') || tenant == 'trusted'", message: "not that"}]
  response: [{allow: "!text.contains('secret plan')"}]
`, nil)
	post := func(text, more string, header ...string) reply {
		return p.post("/chat/completions", chat("sim-echo", text, more), header...)
	}
	if got := post("a Bomb", ""); got.status != 403 || gjson.Get(got.body, "error.message").Str != "not that" || gjson.Get(got.body, "error.type").Str != "permission_error" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := post("a bomb", "", "X-Tenant", "trusted"); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := post("a secret plan", ""); got.status != 403 || strings.Contains(got.body, "secret") || got.header.Get("X-Ai-Cost") == "" {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	// In parts nothing of it comes through, although no part holds all of it.
	if got := post("a secret plan", `,"stream":true`); got.status != 403 || strings.Contains(got.body, "secret") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := p.post("/messages", chat("sim-echo", "a secret plan", `,"max_tokens":9,"stream":true`)); got.status != 403 || strings.Contains(got.body, "secret") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := post("all is well", `,"stream":true`); got.status != 200 || !strings.HasSuffix(got.body, "data: [DONE]\n\n") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := post("a cut answer", `,"stream":true`); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// Nothing that comes to a model or from it hides from the guards.
func TestNothingHidesFromGuards(t *testing.T) {
	p := start(t, guarded+`guards: {request: [{allow: "!text.contains('bomb')"}]}`, nil)
	for name, body := range map[string]string{
		"a text that looks like a file": chat("sim-echo", "data:text/plain, a bomb", ""),
		"arguments of a tool": `{"model":"sim-echo","messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"id\":\"a bomb\"}"}}]},
			{"role":"tool","tool_call_id":"1","content":"x"}]}`,
		"input of a tool": `{"model":"sim-echo","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{"detail":"a bomb","data":"x"}}]}]}`,
		"a document":      `{"model":"sim-echo","messages":[{"role":"user","content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"a bomb"}}]}]}`,
		"a prediction":    chat("sim-echo", "x", `,"prediction":{"type":"content","content":"a bomb"}`),
	} {
		if got := p.post("/chat/completions", body); got.status != 403 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	image := `{"model":"sim-echo","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,bombbomb"}}]}]}`
	if got := p.post("/chat/completions", image); got.status != 200 {
		t.Errorf("an image is taken for a text: %d %s", got.status, got.body)
	}

	for name, events := range map[string][]string{
		"two choices by turns": {
			`{"choices":[{"index":0,"delta":{"content":"a bo"}}]}`, `{"choices":[{"index":1,"delta":{"content":"xx"}}]}`, `{"choices":[{"index":0,"delta":{"content":"mb"}}]}`,
		},
		"a refusal":      {`{"choices":[{"index":0,"delta":{"refusal":"a bo"}}]}`, `{"choices":[{"index":0,"delta":{"refusal":"mb"}}]}`},
		"thoughts":       {`{"choices":[{"index":0,"delta":{"reasoning_content":"a bo"}}]}`, `{"choices":[{"index":0,"delta":{"reasoning_content":"mb"}}]}`},
		"a data address": {`{"choices":[{"index":0,"delta":{"content":"data:a bo"}}]}`, `{"choices":[{"index":0,"delta":{"content":"mb"}}]}`},
	} {
		upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, e := range events {
				_, _ = io.WriteString(w, "data: "+e+"\n\n")
			}
			_, _ = io.WriteString(w, "data: [DONE]\n\n")
		}))
		t.Cleanup(upstream.Close)
		p := start(t, `{version: 1, providers: {p: {wire: openai, base_url: "`+upstream.URL+`", auth: none}}, deployments: {d: {provider: p, model: x}}, models: {m: d},
			guards: {response: [{allow: "!text.contains('bomb')"}]}}`, nil)
		if got := p.post("/chat/completions", chat("m", "x", `,"stream":true`)); got.status != 403 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

func TestWebhook(t *testing.T) {
	var asked atomic.Int64
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		data, _ := io.ReadAll(r.Body)
		switch text := gjson.GetBytes(data, "text").Str; {
		case r.Header.Get("Authorization") != "Bearer "+canary || gjson.GetBytes(data, "tenant").Str != "acme":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(text, "fail"):
			w.WriteHeader(http.StatusInternalServerError)
		default:
			_, _ = fmt.Fprintf(w, `{"allow":%t,"message":"says the hook"}`, !strings.Contains(text, "bad"))
		}
	}))
	t.Cleanup(hook.Close)
	for failOpen, status := range map[string]int{"false": 503, "true": 200} {
		p := start(t, guarded+`guards: {webhook: {url: "`+hook.URL+`", token: env:T, fail_open: `+failOpen+`}}`, nil)
		asked.Store(0)
		if got := p.post("/chat/completions", chat("sim-echo", "fine", ""), "X-Tenant", "acme"); got.status != 200 || asked.Load() != 2 {
			t.Errorf("%d %s after %d questions", got.status, got.body, asked.Load())
		}
		if got := p.post("/chat/completions", chat("sim-echo", "bad", ""), "X-Tenant", "acme"); got.status != 403 || !strings.Contains(got.body, "says the hook") {
			t.Errorf("%d %s", got.status, got.body)
		}
		if got := p.post("/chat/completions", chat("sim-echo", "fail", ""), "X-Tenant", "acme"); got.status != status {
			t.Errorf("a hook that fails, fail_open %s: %d %s", failOpen, got.status, got.body)
		}
		if strings.Contains(p.log.String(), canary) {
			t.Error("the token is in the log")
		}
	}
}

func TestRedactionHappensBeforeAnybodySees(t *testing.T) {
	p := start(t, guarded+"redact: {kinds: [email]}\nlog_content: true\nguards: {request: [{allow: \"!text.contains('@')\"}]}\n", nil)
	got := p.post("/chat/completions", chat("sim-echo", `to \"ada@example.com\",\nbob@example.com`, `,"user":"a@b.co"`))
	if want := "to \"[email]\",\n[email]"; gjson.Get(got.body, "choices.0.message.content").Str != want {
		t.Errorf("%d %s", got.status, got.body)
	}
	if log := p.log.String(); strings.Contains(log, "@example") || !strings.Contains(log, "asked=") {
		t.Errorf("log: %s", log)
	}
	for name, tt := range map[string]struct{ message, want string }{
		"what looks like a file": {`{"role":"user","content":"data:ada@example.com"}`, `"data:[email]"`},
		"arguments of a tool": {
			`{"role":"assistant","tool_calls":[{"id":"a@b.co","type":"function","function":{"name":"f","arguments":"{\"id\":\"a@b.co\",\"n\":[{\"type\":\"a@b.co\"}]}"}}]}`,
			`{"id":"a@b.co","type":"function","function":{"name":"f","arguments":"{\"id\":\"[email]\",\"n\":[{\"type\":\"[email]\"}]}"}}`,
		},
		"input of a tool": {
			`{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{"data":"a@b.co","detail":["a@b.co"]}}]}`, `"input":{"data":"[email]","detail":["[email]"]}`,
		},
		"a document": {`{"role":"user","content":[{"type":"document","source":{"type":"text","data":"a@b.co"}}]}`, `"data":"[email]"`},
		"an image": {
			`{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"a@b.co"}},{"type":"image_url","image_url":{"url":"data:a@b.co"}}]}`,
			`"data":"a@b.co"}},{"type":"image_url","image_url":{"url":"data:a@b.co"}}`,
		},
	} {
		var came string
		upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			data, _ := io.ReadAll(r.Body)
			came = string(data)
			_, _ = io.WriteString(w, "{}")
		}))
		t.Cleanup(upstream.Close)
		p := start(t, `{version: 1, providers: {p: {wire: openai, base_url: "`+upstream.URL+`", auth: none}}, deployments: {d: {provider: p, model: x}}, models: {m: d}, redact: {kinds: [email]}}`, nil)
		if p.post("/chat/completions", `{"model":"m","messages":[`+tt.message+`]}`); !strings.Contains(came, tt.want) {
			t.Errorf("%s: %s came to the provider, want %s", name, came, tt.want)
		}
	}
}
