package wire

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/ai/upstream"
	aiwire "github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// A call that a saga makes for a client says the same to the provider as one that the
// client waits for.
func TestACallThatNobodyWaitsForKeepsItsBetas(t *testing.T) {
	betas := []string{"files-api-2025-04-14", "context-1m-2025-08-07"}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Values("Anthropic-Beta"); !slices.Equal(got, betas) {
			t.Errorf("the provider is told the betas %q, want %q", got, betas)
		}
		_, _ = io.WriteString(w, `{"id":"m","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`)
	}))
	t.Cleanup(provider.Close)
	settings, err := config.Parse("ai.yaml", []byte(`
version: 1
providers:
  p: {wire: anthropic, base_url: "`+provider.URL+`", auth: none, prices: anthropic}
deployments:
  claude: {provider: p, model: claude}
models: {claude: claude}
`), config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	observer, err := observe.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	prices, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	keeper := budget.Unkept(prices)
	models := &aiRoute{Handler: route.New(route.Config{Keeper: keeper, Observer: observer, Logger: slog.New(slog.DiscardHandler)}, settings)}
	t.Cleanup(models.Close)
	asked, err := body.Parse([]byte(`{"model":"claude","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	caller := ai.Caller{Tenant: "acme"}
	request := completeRequest(route.Call{Caller: caller, Request: upstream.Request{
		Format: aiwire.Messages, Model: "claude", Tenant: "acme", Body: asked, Header: http.Header{"Anthropic-Beta": betas},
	}})
	plan, err := newAsking(models, nil).Plan(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	reservation, err := keeper.Reserve(t.Context(), budget.Call{ID: ai.NewCallID(), Caller: caller, Operation: request.Operation, Model: request.Model, Targets: plan.Targets, Most: plan.Most})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Do(t.Context(), reservation); err != nil {
		t.Error(err)
	}
}
