package route_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/tidwall/gjson"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/ai/simulated"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

const canary = "sk-canary-27182818"

// product is the AI route with everything that it tells.
type product struct {
	t        *testing.T
	url      string
	handler  *route.Handler
	log      *buffer
	registry *prometheus.Registry
	spans    *tracetest.InMemoryExporter
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("ai.yaml", []byte(text), config.Sources{LookupEnv: func(string) (string, bool) { return canary, true }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func prices(t *testing.T) *price.Book {
	t.Helper()
	book, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// start serves a configuration, to the tenant that the header X-Tenant names.
func start(t *testing.T, text string, keeper *budget.Keeper, change ...func(*route.Config)) *product {
	t.Helper()
	p := &product{t: t, log: new(buffer), registry: prometheus.NewRegistry(), spans: tracetest.NewInMemoryExporter()}
	observer, err := observe.New(p.registry, trace.NewTracerProvider(trace.WithSyncer(p.spans)))
	if err != nil {
		t.Fatal(err)
	}
	if keeper == nil {
		keeper = budget.Unkept(prices(t))
	}
	c := route.Config{Keeper: keeper, Observer: observer, Logger: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&c)
	}
	p.handler = route.New(c, parse(t, text))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity := gateway.Identity{Tenant: r.Header.Get("X-Tenant"), Client: "app"}
		p.handler.ServeHTTP(w, r.WithContext(gateway.WithIdentity(r.Context(), identity)))
	}))
	t.Cleanup(server.Close)
	t.Cleanup(p.handler.Close)
	p.url = server.URL + "/ai/v1"
	return p
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading it
	tail   http.Header
}

func (p *product) post(path, body string, header ...string) reply {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return p.send(r)
}

func (p *product) get(path string, header ...string) reply {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return p.send(r)
}

func (p *product) send(r *http.Request) reply {
	p.t.Helper()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(data), err, response.Trailer}
}

func (p *product) metrics() string {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		_, _ = expfmt.MetricFamilyToText(&b, f)
	}
	return b.String()
}

func chat(model, text, more string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"` + text + `"}]` + more + `}`
}

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

func TestSpansHaveTheNamesOfTheConventions(t *testing.T) {
	p := start(t, string(config.Builtin()), nil)
	p.post("/chat/completions", chat("sim-echo", "hi there", ""), "X-Tenant", "acme", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	names := map[string]map[string]string{}
	for _, span := range p.spans.GetSpans() {
		attributes := map[string]string{}
		for _, a := range span.Attributes {
			attributes[string(a.Key)] = a.Value.String()
		}
		names[span.Name] = attributes
		if span.SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s is in another trace", span.Name)
		}
	}
	call, attempt := names["POST /ai/v1/chat"], names["chat sim-echo"]
	if call["gen_ai.usage.output_tokens"] != "2" || call["gen_ai.operation.name"] != "chat" || call["countermand.tenant"] != "acme" || attempt["gen_ai.provider.name"] != "simulated" {
		t.Errorf("spans: %v", names)
	}
}

func TestWithoutItsDatabaseItIsAwayAndDoesNotDoubtKeys(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	keeper, err := budget.New(pool, budget.Config{Prices: prices(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, string(config.Builtin()), keeper)
	if got := p.post("/chat/completions", chat("sim-echo", "hi", ""), "X-Tenant", "a"); got.status != 503 || gjson.Get(got.body, "error.code").Str != "books_unavailable" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// keep starts a keeper of budgets on a database of its own.
func keep(t *testing.T) *budget.Keeper {
	t.Helper()
	pool := postgrestest.Open(t, postgres.Config{MaxConns: 10},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "ai_budget", FS: budget.Migrations()})
	keeper, err := budget.New(pool, budget.Config{Prices: prices(t), Reload: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = keeper.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return keeper
}

func TestABudgetForTenLetsTenThrough(t *testing.T) {
	keeper := keep(t)
	provider := simulated.New()
	upstream := httptest.NewServer(provider)
	t.Cleanup(upstream.Close)
	p := start(t, `{version: 1, providers: {p: {wire: openai, base_url: "`+upstream.URL+`/v1", auth: none, prices: simulated}},
		deployments: {d: {provider: p, model: sim-echo}}, models: {m: d}}`, keeper)
	if err := keeper.Put(t.Context(), budget.Budget{ID: "ten", Tenant: "acme", Unit: budget.Requests, Period: budget.Month, Limit: 10}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until the budget is known
		list, err := keeper.Budgets(t.Context(), budget.Filter{Tenant: "acme"})
		res, reserved := keeper.Reserve(t.Context(), budget.Call{Caller: ai.Caller{Tenant: "acme"}, Targets: []ai.Model{{Provider: "none", Name: "none"}}})
		if reserved == nil {
			res.Close()
		}
		if err == nil && len(list) == 1 && reserved == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err, reserved)
		}
	}
	time.Sleep(50 * time.Millisecond) // several reloads
	var let, refused atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				switch got := p.post("/chat/completions", chat("m", "hi", `,"max_tokens":5`), "X-Tenant", "acme"); got.status {
				case 200:
					let.Add(1)
				case 429:
					refused.Add(1)
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	if let.Load() != 10 || provider.Calls() != 10 || refused.Load() != 990 {
		t.Errorf("%d of 1000 were let through, %d came to the provider, %d were refused", let.Load(), provider.Calls(), refused.Load())
	}
}

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
	quiet := start(t, guarded, nil)
	quiet.post("/chat/completions", chat("sim-echo", "confidential", ""))
	if strings.Contains(quiet.log.String(), "confidential") {
		t.Error("content is in the log although nobody asked for it")
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
