package prompt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/ai/prompt/examples"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// model says what it is told to, in order, and remembers what it was asked.
type model struct {
	says  []string
	asked []string
}

func (m *model) Plan(_ ai.Caller, name string, body []byte) (prompt.Asking, error) {
	target := ai.Model{Provider: price.Simulated, Name: name}
	return prompt.Asking{
		Targets: []ai.Model{target}, Most: ai.Usage{Input: 100, Output: 50},
		Do: func(ctx context.Context, r *budget.Reservation) (prompt.Answered, error) {
			m.asked = append(m.asked, string(body))
			a, err := r.Dispatch(ctx, target)
			if err != nil {
				return prompt.Answered{}, err
			}
			usage := ai.Usage{Input: 10, Output: 10}
			a.Settle(usage, ai.Reported)
			said := m.says[0]
			m.says = m.says[1:]
			content, err := json.Marshal(said)
			return prompt.Answered{Model: target, Usage: usage, Body: []byte(`{"choices":[{"message":{"content":` + string(content) + `}}]}`)}, err
		},
	}, nil
}

type rig struct {
	*testing.T
	store  *prompt.Store
	model  *model
	server http.Handler
	read   func(query string) int
}

func setup(t *testing.T) *rig {
	t.Helper()
	pool := postgrestest.Open(t, postgres.Config{},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "ai_prompt", FS: prompt.Migrations()})
	prices, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, store: prompt.NewStore(pool, func() {}), model: new(model)}
	r.server = prompt.NewHandler(prompt.HandlerConfig{
		Runner: prompt.NewRunner(r.store, r.model), Keeper: budget.Unkept(prices),
		Async: func(w http.ResponseWriter, _ *http.Request, caller ai.Caller, reference string, variables []byte) {
			w.WriteHeader(http.StatusAccepted)
			_, _ = fmt.Fprintf(w, "%s %s %s", caller.Tenant, reference, variables)
		},
		Caller: func(r *http.Request) ai.Caller { return ai.Caller{Tenant: r.Header.Get("Tenant")} },
	})
	r.read = func(query string) (n int) {
		if err := pool.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "update ai_prompt_version set version = version"); err == nil && r.read("select count(*) from ai_prompt_version") > 0 {
			t.Error("a published version can be changed")
		}
	})
	return r
}

func (r *rig) call(reference, variables string, header ...string) (int, http.Header, string) {
	r.Helper()
	recorder := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(r.Context(), http.MethodPost, prompt.Base+"/"+reference, strings.NewReader(variables))
	request.Header.Set("Tenant", "acme")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	r.server.ServeHTTP(recorder, request)
	return recorder.Code, recorder.Header(), recorder.Body.String()
}

func (r *rig) publish(tenant string, p prompt.Prompt) prompt.Version {
	r.Helper()
	v, err := r.store.Publish(r.Context(), tenant, p)
	if err != nil {
		r.Fatal(err)
	}
	return v
}

func mood() prompt.Prompt {
	return prompt.Prompt{
		Slug: "mood", Model: "m", Repairs: 1,
		Messages:  []prompt.Message{{Role: "system", Content: "Judge {{ text }} in {{n}} words, {{missing}}."}, {Role: "user", Content: "{{text}}"}},
		Variables: json.RawMessage(`{"type":"object","required":["text"],"properties":{"text":{"type":"string"},"n":{"type":"integer"},"missing":{}}}`),
		Output:    json.RawMessage(`{"type":"object","required":["mood"],"properties":{"mood":{"enum":["good","bad"]}}}`),
	}
}

func TestAPromptIsAnEndpoint(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.publish("", mood())
	r.model.says = []string{"```json\n{\"mood\":\"good\"}\n```"}
	status, header, body := r.call("mood", `{"text":"a \"quote\" and {{n}}","n":3}`)
	if status != http.StatusOK || body != `{"output":{"mood":"good"},"prompt":"mood","version":1}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if header.Get("X-Ai-Cost") != "0.00002" || header.Get("X-Ai-Call-Id") == "" {
		t.Errorf("%v", header)
	}
	var asked struct {
		Messages []prompt.Message
		Format   json.RawMessage `json:"response_format"`
	}
	if err := json.Unmarshal([]byte(r.model.asked[0]), &asked); err != nil {
		t.Fatal(err)
	}
	if asked.Messages[0].Content != `Judge a "quote" and {{n}} in 3 words, .` || asked.Messages[1].Content != `a "quote" and {{n}}` || !strings.Contains(string(asked.Format), `"json_schema"`) {
		t.Errorf("asked %s", r.model.asked[0])
	}
}

// What the client has sent is handed over as it is, so that it is the same when it is
// sent again after a channel has moved.
func TestAClientThatDoesNotWaitIsHandedOver(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.publish("", mood())
	for _, reference := range []string{"mood", "mood:latest", "mood:1"} {
		status, _, body := r.call(reference, `{"text":"x"}`, "Prefer", "wait=5, respond-async")
		if status != http.StatusAccepted || body != "acme "+reference+` {"text":"x"}` {
			t.Errorf("%d %s", status, body)
		}
	}
	if status, _, _ := r.call("mood", `{}`, "Prefer", "respond-async"); status != http.StatusUnprocessableEntity {
		t.Errorf("variables that break the schema are taken: %d", status)
	}
	if status, _, _ := r.call("none", `{}`, "Prefer", "respond-async"); status != http.StatusNotFound {
		t.Errorf("a prompt that is not there is taken: %d", status)
	}
	if len(r.model.asked) != 0 {
		t.Errorf("asked %v", r.model.asked)
	}
}

// A version can be called as soon as it is published, under every name.
func TestWhatIsPublishedIsCalledAtOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	for version, text := range []string{"one", "two"} {
		p := mood()
		p.Description = text
		r.publish("", p)
		r.model.says = []string{`{"mood":"good"}`}
		if _, _, body := r.call("mood", `{"text":"x"}`); !strings.Contains(body, `"version":`+strconv.Itoa(version+1)) {
			t.Errorf("after version %d: %s", version+1, body)
		}
	}
}

func TestAnOutputThatBreaksItsSchemaIsRepaired(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.publish("", mood())
	r.model.says = []string{`{"mood":"so-so"}`, `{"mood":"bad"}`}
	status, header, body := r.call("mood", `{"text":"x"}`)
	if status != http.StatusOK || !strings.Contains(body, `"repairs":1`) || header.Get("X-Ai-Cost") != "0.00004" {
		t.Errorf("%d %s, cost %s", status, body, header.Get("X-Ai-Cost"))
	}
	if again := r.model.asked[1]; !strings.Contains(again, "so-so") || !strings.Contains(again, "/mood") {
		t.Errorf("the model is not told what is wrong: %s", again)
	}
	r.model.says = []string{"no", "never", "not asked"}
	status, header, body = r.call("mood", `{"text":"x"}`)
	if status != http.StatusBadGateway || !strings.Contains(body, `"output_invalid"`) || len(r.model.says) != 1 || header.Get("X-Ai-Cost") != "0.00004" {
		t.Errorf("%d %s with %d answers left, cost %s", status, body, len(r.model.says), header.Get("X-Ai-Cost"))
	}
	capped := mood()
	capped.CapUSD = "0.00015" // two attempts may cost up to 0.000125 each, and one has cost 0.00002
	capped.Repairs = 3
	r.publish("", capped)
	r.model.says = []string{"no", "never", "not asked"}
	if status, _, body = r.call("mood:latest", `{"text":"x"}`); status == http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestVariablesAreChecked(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.publish("", mood())
	for _, variables := range []string{`{}`, `{"text":1}`, `[]`, `x`, ``} {
		if status, _, body := r.call("mood", variables); status != http.StatusUnprocessableEntity || !strings.Contains(body, "invalid_variables") {
			t.Errorf("%s: %d %s", variables, status, body)
		}
	}
	if len(r.model.asked) != 0 {
		t.Error("the model was asked")
	}
}

func TestVersionsAndChannels(t *testing.T) {
	t.Parallel()
	r := setup(t)
	text := prompt.Prompt{
		Slug: "text", Model: "one", Messages: []prompt.Message{{Role: "user", Content: "x"}}, Variables: json.RawMessage(`{"type":"object"}`),
	}
	first := r.publish("", text)
	if again := r.publish("", text); again.Version != 1 || again.Digest != first.Digest {
		t.Errorf("the same is published again as %d", again.Version)
	}
	text.Model = "two"
	if second := r.publish("", text); second.Version != 2 {
		t.Fatalf("the second version is %d", second.Version)
	}
	want := func(reference string, version int) {
		t.Helper()
		v, err := r.store.Get(t.Context(), "acme", reference)
		if err != nil || v.Version != version {
			t.Errorf("%s is version %d, %v; want %d", reference, v.Version, err, version)
		}
	}
	want("text", 2) // nothing is stable yet
	if err := r.store.Move(t.Context(), "", "text", prompt.Stable, 1); err != nil {
		t.Fatal(err)
	}
	want("text", 1)
	want("text:stable", 1)
	want("text:latest", 2)
	want("text:2", 2)
	text.Model = "own"
	r.publish("acme", text)
	time.Sleep(1100 * time.Millisecond) // how long what a name stands for is remembered
	if v, err := r.store.Get(t.Context(), "acme", "text"); err != nil || v.Tenant != "acme" {
		t.Errorf("a tenant's own prompt does not come first: %+v, %v", v, err)
	}
	if v, err := r.store.Get(t.Context(), "other", "text"); err != nil || v.Tenant != "" {
		t.Errorf("another tenant gets %+v, %v", v, err)
	}
	for _, reference := range []string{"none", "text:9", "text:0", "text:nightly", "../x"} {
		if _, err := r.store.Get(t.Context(), "acme", reference); !errors.Is(err, prompt.ErrNotFound) {
			t.Errorf("%s: %v", reference, err)
		}
	}
	if err := r.store.Move(t.Context(), "", "text", prompt.Stable, 9); !errors.Is(err, prompt.ErrNotFound) {
		t.Error(err)
	}
	if err := r.store.Move(t.Context(), "", "text", "nightly", 1); !errors.Is(err, prompt.ErrInvalid) {
		t.Error(err)
	}
	if got := r.read("select count(*) from outbox where topic = 'ai.prompt.events'"); got != 4 {
		t.Errorf("%d events, want 3 of versions and 1 of a channel", got)
	}
	listed, err := r.store.List(t.Context(), "acme")
	if err != nil || len(listed) != 2 || listed[0].Stable != 1 || listed[0].Latest != 2 || listed[1].Tenant != "acme" {
		t.Errorf("%+v, %v", listed, err)
	}
	if status, _, _ := r.call("none", `{}`); status != http.StatusNotFound {
		t.Errorf("a prompt that is not there answers %d", status)
	}
}

func TestWhatIsWrongWithAPrompt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(p *prompt.Prompt)
		want   string
	}{
		"slug":        {func(p *prompt.Prompt) { p.Slug = "A b" }, "slug"},
		"model":       {func(p *prompt.Prompt) { p.Model = "" }, "model"},
		"role":        {func(p *prompt.Prompt) { p.Messages[0].Role = "tool" }, "role"},
		"placeholder": {func(p *prompt.Prompt) { p.Messages[0].Content = "{{nobody}}" }, "{{nobody}} is no property"},
		"schema":      {func(p *prompt.Prompt) { p.Variables = json.RawMessage(`{"type":"objekt"}`) }, "variables"},
		"reference":   {func(p *prompt.Prompt) { p.Output = json.RawMessage(`{"$ref":"file:///etc/passwd"}`) }, "complete in itself"},
		"repairs":     {func(p *prompt.Prompt) { p.Repairs = 4 }, "repairs"},
		"no output":   {func(p *prompt.Prompt) { p.Output = nil }, "nothing to repair"},
		"parameter":   {func(p *prompt.Prompt) { p.Parameters = map[string]json.RawMessage{"stream": []byte("true")} }, "stream is the prompt's"},
		"cap":         {func(p *prompt.Prompt) { p.CapUSD = "cheap" }, "cap_usd"},
		"no messages": {func(p *prompt.Prompt) { p.Messages = nil }, "messages"},
	} {
		p := mood()
		test.change(&p)
		if err := p.Validate(); !errors.Is(err, prompt.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestTheExamplesAreGood(t *testing.T) {
	t.Parallel()
	r := setup(t)
	all, err := examples.All()
	if err != nil || len(all) != 4 {
		t.Fatalf("%d examples, %v", len(all), err)
	}
	for _, p := range all {
		r.publish("", p)
	}
	document, err := r.store.OpenAPI(t.Context(), "acme", prompt.Base)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/ai/v1/prompts/sentiment", "/ai/v1/prompts/summary", "/ai/v1/prompts/translation", "/ai/v1/prompts/triage", `"3.1.0"`, `"maxLength":10000`} {
		if !strings.Contains(string(document), want) {
			t.Errorf("the contract lacks %s", want)
		}
	}
}
