package route_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/config"
)

// A secret is in nothing that the product says, whatever an upstream does with it.
func TestSecretsAreNowhere(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		body, _ := io.ReadAll(r.Body)
		status := http.StatusOK
		_, _ = fmt.Sscanf(gjson.GetBytes(body, "user").Str, "%d", &status)
		if status == 200 {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\ndata: {\"error\":{\"message\":\"key %s\",\"code\":\"%s\"}}\n\n", canary, canary)
			return
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"error":{"message":"your key %s is bad","code":"%s","param":"%s"}}`, r.Header.Get("Authorization"), canary, canary)
	}))
	t.Cleanup(upstream.Close)
	text := `{version: 1, providers: {p: {wire: openai, base_url: "` + upstream.URL + `", keys: [env:A], prices: openai}, dead: {wire: openai, base_url: "http://127.0.0.1:1", keys: [env:A]}},
		deployments: {d: {provider: p, model: gpt-4o}, e: {provider: dead, model: x}}, models: {m: d, n: e}}`
	p := start(t, text, nil)
	for _, status := range []string{"200", "400", "401", "403", "404", "422", "429", "500", "503"} {
		got := p.post("/chat/completions", chat("m", "hi", `,"stream":true,"user":"`+status+`"`))
		p.handler.SetConfig(parse(t, strings.ReplaceAll(text, "gpt-4o", "gpt-4o-"+status))) // no key rests
		if all := fmt.Sprint(got.body, got.header); strings.Contains(all, canary) {
			t.Errorf("upstream status %s: %s", status, all)
		}
		if status == "400" && !strings.Contains(got.body, "[redacted]") {
			t.Errorf("what the upstream says is not passed on: %s", got.body)
		}
	}
	p.post("/chat/completions", chat("n", "hi", ""))
	for what, text := range map[string]string{"log": p.log.String(), "metrics": p.metrics(), "spans": fmt.Sprintf("%+v", p.spans.GetSpans())} {
		if strings.Contains(text, canary) {
			t.Errorf("the secret is in the %s: %s", what, text)
		}
		if text == "" {
			t.Errorf("the %s is empty, so this test shows nothing", what)
		}
	}
}

// spansByName returns the attributes of the spans by their name and kind.
func (p *product) spansByName() map[string]map[string]string {
	p.t.Helper()
	names := map[string]map[string]string{}
	for _, span := range p.spans.GetSpans() {
		attributes := map[string]string{"status": span.Status.Code.String()}
		for _, a := range span.Attributes {
			attributes[string(a.Key)] = a.Value.String()
		}
		names[span.SpanKind.String()+" "+span.Name] = attributes
		if span.SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
			p.t.Errorf("%s is in another trace", span.Name)
		}
	}
	p.spans.Reset()
	return names
}

// The names are those of the semantic conventions for generative AI: the request to a
// model is a span of the kind client, named by operation and model, with its tokens.
func TestSpansHaveTheNamesOfTheConventions(t *testing.T) {
	p := start(t, strings.Replace(string(config.Builtin()), "simulated: {preset", "simulated: {prices: google, preset", 1), nil)
	ask := func(path, body string) (call, attempt map[string]string) {
		t.Helper()
		p.post(path, body, "X-Tenant", "acme", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		for name, attributes := range p.spansByName() {
			if strings.HasPrefix(name, "client ") {
				attempt = attributes
			} else {
				call = attributes
			}
			attributes["name"] = name
			delete(attributes, "countermand.ai.call_id")
			delete(attributes, "countermand.ai.cost_nanousd")
		}
		return call, attempt
	}
	for _, tt := range []struct {
		path, body    string
		call, attempt map[string]string
	}{
		{
			"/chat/completions", chat("sim-echo", "hi there", ""),
			map[string]string{"name": "server POST /ai/v1/chat/completions", "countermand.ai.model": "sim-*", "countermand.tenant": "acme", "countermand.ai.attempts": "1", "status": "Unset"},
			map[string]string{
				"name": "client chat sim-echo", "gen_ai.operation.name": "chat", "gen_ai.provider.name": "gcp.gemini", "gen_ai.request.model": "sim-echo",
				"gen_ai.usage.input_tokens": "2", "gen_ai.usage.output_tokens": "2", "countermand.ai.deployment": "simulated", "status": "Unset",
			},
		},
		{
			"/messages", chat("sim-echo", "hi there", `,"max_tokens":9,"stream":true`),
			map[string]string{"name": "server POST /ai/v1/messages", "countermand.ai.model": "sim-*", "countermand.tenant": "acme", "countermand.ai.attempts": "1", "status": "Unset"},
			map[string]string{
				"name": "client chat sim-echo", "gen_ai.operation.name": "chat", "gen_ai.provider.name": "gcp.gemini", "gen_ai.request.model": "sim-echo",
				"gen_ai.usage.input_tokens": "2", "gen_ai.usage.output_tokens": "2", "countermand.ai.deployment": "simulated", "status": "Unset",
			},
		},
		{
			"/embeddings", `{"model":"sim-fail-422","input":"hi"}`,
			map[string]string{
				"name": "server POST /ai/v1/embeddings", "countermand.ai.model": "sim-*", "countermand.tenant": "acme", "countermand.ai.attempts": "1",
				"error.type": "refused", "status": "Error",
			},
			map[string]string{
				"name": "client embeddings sim-fail-422", "gen_ai.operation.name": "embeddings", "gen_ai.provider.name": "gcp.gemini", "gen_ai.request.model": "sim-fail-422",
				"countermand.ai.deployment": "simulated", "error.type": "refused", "status": "Error",
			},
		},
	} {
		call, attempt := ask(tt.path, tt.body)
		if !maps.Equal(call, tt.call) {
			t.Errorf("%s: the span of the call has %v", tt.path, call)
		}
		if !maps.Equal(attempt, tt.attempt) {
			t.Errorf("%s: the span of the attempt has %v", tt.path, attempt)
		}
	}
}

func TestMetricsHaveTheNamesOfTheConventions(t *testing.T) {
	p := start(t, `{version: 1, providers: {p: {preset: simulated}}, deployments: {simulated: {provider: p, model: "*"}},
		models: {"sim-*": {targets: [simulated], attempts: 1}}, cache: {ttl: 1m}}`, nil)
	p.post("/chat/completions", chat("sim-echo", "hi there", ""))
	p.post("/chat/completions", chat("sim-echo", "hi there", ""))
	p.post("/messages", chat("sim-echo", "hi there", `,"max_tokens":9,"stream":true`))
	p.post("/embeddings", `{"model":"sim-embed","input":"hi"}`)
	p.post("/chat/completions", chat("sim-fail-422", "hi there", ""))
	p.post("/chat/completions", chat("made-up-by-a-client", "hi there", ""))
	for range 5 {
		p.post("/chat/completions", chat("sim-fail-500", "hi", ""))
	}
	metrics := p.metrics()
	for _, want := range []string{
		`gen_ai_client_token_usage_sum{gen_ai_operation_name="chat",gen_ai_request_model="sim-*",gen_ai_token_type="input"} 4`,
		`gen_ai_client_token_usage_sum{gen_ai_operation_name="chat",gen_ai_request_model="sim-*",gen_ai_token_type="output"} 4`,
		`gen_ai_client_token_usage_count{gen_ai_operation_name="embeddings",gen_ai_request_model="sim-*",gen_ai_token_type="input"} 1`,
		`gen_ai_client_operation_duration_seconds_count{error_type="",gen_ai_operation_name="chat",gen_ai_request_model="sim-*"} 3`,
		`gen_ai_client_operation_duration_seconds_count{error_type="refused",gen_ai_operation_name="chat",gen_ai_request_model="sim-*"} 1`,
		`gen_ai_client_operation_duration_seconds_count{error_type="model_not_found",gen_ai_operation_name="chat",gen_ai_request_model=""} 1`,
		`gen_ai_client_operation_time_to_first_chunk_seconds_count{gen_ai_operation_name="chat",gen_ai_request_model="sim-*"} 1`,
		`countermand_ai_attempts_total{deployment="simulated",outcome="answered"} 3`,
		`countermand_ai_attempts_total{deployment="simulated",outcome="refused"} 1`,
		`countermand_ai_cache_lookups_total{result="hit"} 1`,
		`countermand_ai_deployment_left_alone{deployment="simulated"} 1`,
		`countermand_ai_overhead_seconds_count 4`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("%s is not among\n%s", want, metrics)
		}
	}
	if strings.Contains(metrics, "made-up") || strings.Contains(metrics, "sim-fail") {
		t.Errorf("clients make labels: %s", metrics)
	}
}

// What is said to a model and by it goes nowhere but to the model and back.
func TestContentIsNowhere(t *testing.T) {
	const said, told = "said-27182818", "told-31415926"
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(hook.Close)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(body), "refuse"):
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"message":"no `+told+`","code":"`+told+`"}}`)
		case strings.Contains(string(body), "nonsense"):
			_, _ = io.WriteString(w, `{"half":"`+told)
		case gjson.GetBytes(body, "stream").Bool():
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, `data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"`+told[:5]+"\"}}]}\n\n"+
				`data: {"choices":[{"index":0,"delta":{"content":"`+told[5:]+"\"}}]}\n\ndata: [DONE]\n\n")
		default:
			_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"`+told+`"}}]}`)
		}
	}))
	t.Cleanup(upstream.Close)
	text := `{version: 1, providers: {p: {wire: openai, base_url: "` + upstream.URL + `", keys: [env:A], prices: openai}, q: {wire: gemini, base_url: "` + upstream.URL + `", auth: none}},
		deployments: {d: {provider: p, model: gpt-4o}, e: {provider: q, model: x}}, models: {m: {targets: [d], attempts: 1}, g: {targets: [e], attempts: 1}},
		guards: {request: [{allow: "!text.contains('quoted') || {'a': true}[text]"}], webhook: {url: "` + hook.URL + `?` + said + `", fail_open: true}}`
	calls := func(p *product) {
		t.Helper()
		for _, wish := range []string{"answer", "refuse", "nonsense", "quoted"} {
			for _, model := range []string{"m", "g"} {
				for _, more := range []string{"", `,"stream":true`} {
					p.post("/chat/completions", chat(model, wish+" "+said, more+`,"user":"`+said+`"`))
				}
			}
		}
		p.post("/chat/completions", chat("no-"+said, said, ""))
		p.post("/chat/completions", `{"model":"m","`+said+`":1,"`+said+`":2}`)
		if all := p.log.String() + p.metrics() + fmt.Sprintf("%+v", p.spans.GetSpans()); !strings.Contains(all, "guard of the AI route") || !strings.Contains(all, "webhook of the AI route") {
			t.Error("the guards have not failed, so this test shows nothing")
		}
	}
	p := start(t, text+"}", nil)
	calls(p)
	for what, text := range map[string]string{"log": p.log.String(), "metrics": p.metrics(), "spans": fmt.Sprintf("%+v", p.spans.GetSpans())} {
		if strings.Contains(text, said) || strings.Contains(text, told) {
			t.Errorf("content is in the %s: %s", what, text)
		}
	}
	p = start(t, text+", log_content: true, redact: {patterns: {number: '27182818'}}}", nil)
	calls(p)
	for what, text := range map[string]string{"metrics": p.metrics(), "spans": fmt.Sprintf("%+v", p.spans.GetSpans())} {
		if strings.Contains(text, "said-") || strings.Contains(text, told) {
			t.Errorf("content is in the %s: %s", what, text)
		}
	}
	if log := p.log.String(); strings.Count(log, `asked="answer said-[number]" answered=`+told) != 2 || strings.Contains(log, said) {
		t.Errorf("the log has not what was asked and answered, at once and in parts: %s", log)
	}
}
