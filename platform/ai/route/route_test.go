package route_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/ai/simulated"
	"github.com/countermand/countermand/platform/gateway"
)

func TestEveryEndpointAnswers(t *testing.T) {
	p := start(t, string(config.Builtin()), nil)
	for path, tt := range map[string]struct{ body, want string }{
		"/chat/completions": {chat("sim-echo", "hi", ""), `"content":"hi"`},
		"/messages":         {chat("sim-echo", "hi", `,"max_tokens":5`), `"text":"hi"`},
		"/responses":        {`{"model":"sim-echo","input":"hi"}`, `"text":"hi"`},
		"/embeddings":       {`{"model":"sim-embed","input":"hi"}`, `"embedding":[`},
	} {
		got := p.post(path, tt.body)
		if got.status != 200 || !strings.Contains(got.body, tt.want) {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
		if _, err := ai.ParseCallID(got.header.Get("X-Ai-Call-Id")); err != nil || got.header.Get("X-Ai-Attempts") != "1" ||
			got.header.Get("X-Ai-Cost") == "0" || !strings.HasSuffix(got.header.Get("X-Ai-Overhead"), "us") {
			t.Errorf("%s: header %v", path, got.header)
		}
		if path == "/embeddings" {
			continue
		}
		got = p.post(path, strings.TrimSuffix(tt.body, "}")+`,"stream":true}`)
		if got.err != nil || got.header.Get("Content-Type") != "text/event-stream" || got.tail.Get("X-Ai-Cost") == "" {
			t.Errorf("%s in parts: %v %v %v", path, got.err, got.header, got.tail)
		}
	}
	if got := p.get("/models"); gjson.Get(got.body, "object").Str != "list" || gjson.Get(got.body, "data.0.id").Str != "sim-echo" {
		t.Errorf("models: %s", got.body)
	}
	if got := p.get("/models", "Anthropic-Version", "2023-06-01"); gjson.Get(got.body, "last_id").Str != "sim-words" || gjson.Get(got.body, "has_more").Bool() {
		t.Errorf("models for a client of messages: %s", got.body)
	}
	if got := p.get("/models/none"); got.status != 404 || gjson.Get(got.body, "error.code").Str != "model_not_found" {
		t.Errorf("a model that is not there: %d %s", got.status, got.body)
	}
	if !strings.Contains(p.metrics(), `gen_ai_client_token_usage_count{gen_ai_operation_name="chat",gen_ai_request_model="sim-*",gen_ai_token_type="output"}`) {
		t.Errorf("metrics: %s", p.metrics())
	}
}

func TestErrorsHaveTheFormOfTheirEndpoint(t *testing.T) {
	p := start(t, string(config.Builtin()), nil, func(c *route.Config) { c.BodyBytesMax = 1000 })
	for name, tt := range map[string]struct {
		path, body string
		status     int
		kind, code string
	}{
		"no JSON":              {"/chat/completions", `{"model"`, 400, "invalid_request_error", "invalid_request"},
		"a field twice":        {"/chat/completions", `{"model":"sim-echo","Model":"sim-words"}`, 400, "invalid_request_error", "invalid_request"},
		"no model":             {"/chat/completions", `{"messages":[]}`, 400, "invalid_request_error", "invalid_request"},
		"no such model":        {"/chat/completions", chat("x", "hi", ""), 404, "invalid_request_error", "model_not_found"},
		"too large":            {"/chat/completions", chat("sim-echo", strings.Repeat("x", 2000), ""), 413, "invalid_request_error", "body_too_large"},
		"an upstream's fault":  {"/chat/completions", chat("sim-fail-500", "hi", ""), 502, "server_error", "simulated"},
		"an upstream's limit":  {"/chat/completions", chat("sim-fail-429", "hi", ""), 429, "rate_limit_error", "simulated"},
		"an upstream's no":     {"/chat/completions", chat("sim-fail-422", "hi", ""), 422, "invalid_request_error", "simulated"},
		"a key that is no key": {"/chat/completions", chat("sim-fail-401", "hi", ""), 502, "server_error", "upstream_key_refused"},
		"messages: no model":   {"/messages", chat("x", "hi", ""), 404, "not_found_error", "model_not_found"},
		"messages: overloaded": {"/messages", chat("sim-fail-529", "hi", ""), 503, "overloaded_error", "overloaded_error"},
		"messages: limit":      {"/messages", chat("sim-fail-429", "hi", ""), 429, "rate_limit_error", "rate_limit_error"},
	} {
		got := p.post(tt.path, tt.body)
		e := gjson.Get(got.body, "error")
		if got.status != tt.status || e.Get("type").Str != tt.kind || e.Get("code").Str != tt.code || e.Get("message").Str == "" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		if tt.path == "/messages" && gjson.Get(got.body, "type").Str != "error" {
			t.Errorf("%s: %s", name, got.body)
		}
		if tt.status == 429 && got.header.Get("Retry-After") == "" {
			t.Errorf("%s: when to come back is not told", name)
		}
	}
	if got := p.post("/chat/completions", "{}", "Content-Type", "text/plain"); got.status != 415 {
		t.Errorf("another content type: %d", got.status)
	}
	if got := p.get("/chat/completions"); got.status != 404 || gjson.Get(got.body, "error.code").Str != "not_found" {
		t.Errorf("GET of an endpoint: %d %s", got.status, got.body)
	}
}

func TestACutStreamEndsInAnErrorAndABrokenConnection(t *testing.T) {
	p := start(t, string(config.Builtin()), nil)
	for path, want := range map[string]string{
		"/chat/completions": "data: {\"error\":{\"message\":", "/messages": "event: error\ndata: {\"type\":\"error\"", "/responses": "event: error\ndata: {\"type\":\"error\"",
	} {
		body := chat("sim-cut", "a b c d e f", `,"max_tokens":9,"stream":true`)
		if path == "/responses" {
			body = `{"model":"sim-cut","input":"a b c d","stream":true}`
		}
		got := p.post(path, body)
		if got.status != 200 || !strings.Contains(got.body, want) || strings.Contains(got.body, "[DONE]") || strings.Contains(got.body, "message_stop") ||
			!errors.Is(got.err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %d %v %s", path, got.status, got.err, got.body)
		}
	}
	if !strings.Contains(p.metrics(), `countermand_ai_attempts_total{deployment="simulated",outcome="cut"} 3`) {
		t.Error("cut attempts are not counted")
	}
}

func TestASlowAnswerOutlivesTheReadTimeout(t *testing.T) {
	p := start(t, string(config.Builtin()), nil)
	server := httptest.NewUnstartedServer(p.handler)
	server.Config.ReadTimeout = 50 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	p.url = server.URL + "/ai/v1"
	got := p.post("/chat/completions", chat("sim-echo", "[[sim pause=60ms]] a b", `,"stream":true`))
	if got.err != nil || !strings.HasSuffix(got.body, "data: [DONE]\n\n") {
		t.Errorf("%v %s", got.err, got.body)
	}
}

func TestCache(t *testing.T) {
	provider := simulated.New()
	upstream := httptest.NewServer(provider)
	t.Cleanup(upstream.Close)
	p := start(t, `{version: 1, providers: {p: {wire: openai, base_url: "`+upstream.URL+`/v1", auth: none, prices: simulated}},
		deployments: {d: {provider: p, model: "*"}}, models: {"sim-*": d}, cache: {ttl: 1m, entries: 2}}`, nil)
	calls := func(tenant, text string, header ...string) int64 {
		t.Helper()
		before := provider.Calls()
		got := p.post("/chat/completions", chat("sim-echo", text, ""), append(header, "X-Tenant", tenant)...)
		if got.status != 200 || gjson.Get(got.body, "choices.0.message.content").Str != text {
			t.Errorf("%d %s", got.status, got.body)
		}
		made := provider.Calls() - before
		if hit := got.header.Get("X-Ai-Cache") == "hit"; hit != (made == 0) {
			t.Errorf("%d calls, and the header says hit: %v", made, hit)
		}
		return made
	}
	for i, step := range []struct {
		tenant, text string
		header       []string
		want         int64
	}{
		{"a", "x", nil, 1},
		{"a", "x", nil, 0},
		{"b", "x", nil, 1}, // another tenant's answers are not given
		{"a", "x", []string{"Cache-Control", "no-cache"}, 1},
		{"a", "y", nil, 1},
		{"a", "y", nil, 0},
		{"b", "x", nil, 1}, // there is room for two
	} {
		if got := calls(step.tenant, step.text, step.header...); got != step.want {
			t.Errorf("step %d: %d calls, want %d", i, got, step.want)
		}
	}
	if got := p.post("/chat/completions", chat("sim-fail-422", "x", "")); got.status != 422 {
		t.Errorf("%d", got.status)
	}
	if got := p.post("/chat/completions", chat("sim-fail-422", "x", "")); got.header.Get("X-Ai-Cache") != "" {
		t.Error("a failure is kept")
	}
}

func TestAsyncIsHandedOver(t *testing.T) {
	var taken route.Call
	p := start(t, string(config.Builtin()), nil, func(c *route.Config) {
		c.Async = func(w http.ResponseWriter, _ *http.Request, call route.Call) {
			taken = call
			w.WriteHeader(http.StatusAccepted)
		}
	})
	if got := p.post("/chat/completions", chat("sim-echo", "x", ""), "Prefer", "wait=1, respond-async", "X-Tenant", "a"); got.status != 202 || taken.Model != "sim-echo" || taken.Caller.Tenant != "a" {
		t.Errorf("%d, %+v", got.status, taken)
	}
	if got := p.post("/chat/completions", chat("sim-echo", "x", "")); got.status != 200 {
		t.Errorf("%d", got.status)
	}
}

func TestCredentialsThatAreRefused(t *testing.T) {
	p := start(t, string(config.Builtin()), nil)
	server := httptest.NewServer(p.handler.Behind(func(r *http.Request) (gateway.Identity, http.Header, *gateway.Problem) {
		switch r.Header.Get("X-Api-Key") {
		case "good":
			return gateway.Identity{Tenant: "t"}, nil, nil
		case "later":
			return gateway.Identity{}, http.Header{"Retry-After": {"1"}}, &gateway.Problem{Status: 503, Code: "credential_unchecked", Title: "later"}
		}
		return gateway.Identity{}, http.Header{"Www-Authenticate": {"Bearer"}}, &gateway.Problem{Status: 401, Code: "credential_invalid", Detail: "bad"}
	}))
	t.Cleanup(server.Close)
	p.url = server.URL + "/ai/v1"
	if got := p.post("/chat/completions", chat("sim-echo", "x", ""), "X-Api-Key", "good"); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	got := p.post("/chat/completions", chat("sim-echo", "x", ""))
	if got.status != 401 || gjson.Get(got.body, "error.type").Str != "authentication_error" || gjson.Get(got.body, "error.message").Str != "bad" || got.header.Get("Www-Authenticate") == "" {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	if got = p.post("/messages", chat("sim-echo", "x", "")); gjson.Get(got.body, "type").Str != "error" || gjson.Get(got.body, "error.type").Str != "authentication_error" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got = p.get("/models", "X-Api-Key", "later"); got.status != 503 || got.header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", got.status, got.body)
	}
}
